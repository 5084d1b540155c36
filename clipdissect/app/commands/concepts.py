"""Check a concept list: duplicates, blanks, over-long texts, near-duplicates, size after cleaning.

clipdissect concepts words.txt
clipdissect concepts imagenet
clipdissect concepts concepts=wordfreq concepts.n=5000 --strict
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipdissect.app.commands import command_parser, exit_on_user_errors
from clipdissect.app.help import conf_folder
from clipdissect.app.launch import set_up_logging

if TYPE_CHECKING:
    from clipdissect.concepts import Concepts


@exit_on_user_errors
def main() -> None:
    """Exit with 0 when done, 1 on problems with `--strict`, 2 on a mistake in the request."""
    parser = _parser()
    options = parser.parse_args()
    if options.context < 1 or options.show < 0:
        parser.error("--context must be at least 1, --show at least 0")
    set_up_logging(logging.WARNING)
    from clipdissect.concepts.lint import lint

    concepts = _concepts(options.concepts)
    problems = lint(concepts, options.context)
    print("\n".join(_report(concepts, problems, options.show)))
    sys.exit(1 if problems and options.strict else 0)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("concepts", __doc__)
    description = (
        f"a text file, the name of a set ({', '.join(_names())}), or "
        "concepts=<set> concepts.<parameter>=<value>"
    )
    parser.add_argument("concepts", nargs="+", help=description)
    parser.add_argument("--strict", action="store_true", help="exit with 1 on problems")
    context = "tokens that the text encoder takes, marks included (CLIP: %(default)s)"
    parser.add_argument("--context", type=int, default=77, help=context)
    show = "texts to show of each kind (%(default)s)"
    parser.add_argument("--show", type=int, default=10, help=show)
    return parser


def _names() -> list[str]:
    return sorted(path.stem for path in (conf_folder() / "concepts").glob("*.yaml"))


def _concepts(arguments: Sequence[str]) -> Concepts:
    from clipdissect.concepts import build, file
    from clipdissect.errors import DissectError, unknown
    from clipdissect.utils.paths import is_wrong_name

    overrides = [a for a in arguments if a.startswith(("concepts=", "concepts."))]
    named = [a for a in arguments if a not in overrides]
    if len(named) > 1:
        raise DissectError(f"one list at a time; got {' and '.join(named)}")
    if named and named[0] not in _names():
        if overrides:
            raise DissectError(f"{named[0]} is a file, which has no parameters: {overrides[0]}")
        if is_wrong_name(named[0]):
            raise unknown("concept set or text file", named[0], _names())
        return file(named[0])
    from hydra import compose, initialize_config_dir

    from clipdissect.app.build import build_group
    from clipdissect.app.schema import register

    register()
    overrides = [*(f"concepts={name}" for name in named), *overrides]
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", overrides=overrides)
    built: Concepts = build_group(build, config.concepts)
    return built


def _report(concepts: Concepts, problems: dict[str, tuple[str, ...]], show: int) -> list[str]:
    lines = [f"{concepts.name}: {len(concepts)} texts after cleaning"]
    for kind, texts in problems.items():
        lines.append(f"  {kind}: {len(texts)}")
        lines += [f"    {text}" for text in texts[: max(show, 0)] if text]
        if len(texts) > show > 0 and any(texts):
            lines.append(f"    ... and {len(texts) - show} more")
    return lines if problems else [*lines, "  no problems found"]
