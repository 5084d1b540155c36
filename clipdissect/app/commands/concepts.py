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

from clipdissect.app.help import conf_folder

if TYPE_CHECKING:
    from clipdissect.concepts import Concepts


def main() -> None:
    """Entry point of `clipdissect concepts`.

    Exit codes: 0 done, 1 something was found and `--strict` was given, 2 a mistake in the request.
    """
    parser = _parser()
    options = parser.parse_args()
    if options.context < 1 or options.show < 0:
        parser.error("--context must be at least 1, --show at least 0")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    from clipdissect.app.user_errors import explain
    from clipdissect.concepts.lint import lint

    try:
        concepts = _concepts(options.what)
        found = lint(concepts, options.context)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    print("\n".join(_report(concepts, found, options.show)))
    sys.exit(1 if found and options.strict else 0)


def _parser() -> argparse.ArgumentParser:
    prog = sys.argv[0] if " " in sys.argv[0] else "clipdissect concepts"
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", nargs="+",
        help=f"a text file, the name of a set ({', '.join(_names())}), or "
        f"concepts=<set> concepts.<parameter>=<value>",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="exit code 1 if anything was found")
    parser.add_argument(
        "--context", type=int, default=77,
        help="tokens that the text encoder takes, marks included (CLIP: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--show", type=int, default=10, help="texts to show of each kind (%(default)s)"
    )
    return parser


def _names() -> list[str]:
    return sorted(path.stem for path in (conf_folder() / "concepts").glob("*.yaml"))


def _concepts(what: Sequence[str]) -> Concepts:
    """The set that the arguments name.

    Raises:
        DissectError: two sets, or from building it.
    """
    from clipdissect.concepts import file, is_wrong_name
    from clipdissect.errors import DissectError, unknown

    overrides = [w for w in what if w.startswith(("concepts=", "concepts."))]
    named = [w for w in what if w not in overrides]
    if len(named) > 1:
        raise DissectError(f"one list at a time; got {' and '.join(named)}")
    if named and named[0] not in _names():
        if overrides:
            raise DissectError(f"{named[0]} is a file, which has no parameters: {overrides[0]}")
        if is_wrong_name(named[0]):
            raise unknown("concept set or text file", named[0], _names())
        return file(named[0])
    return _configured([*(f"concepts={name}" for name in named), *overrides])


def _configured(overrides: Sequence[str]) -> Concepts:
    from hydra import compose, initialize_config_dir

    from clipdissect import concepts
    from clipdissect.app.build import of_group
    from clipdissect.app.schema import register

    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    built: Concepts = of_group(concepts.build, config.concepts)
    return built


def _report(concepts: Concepts, found: dict[str, tuple[str, ...]], show: int) -> list[str]:
    lines = [f"{concepts.name}: {len(concepts)} texts after cleaning"]
    for kind, texts in found.items():
        lines.append(f"  {kind}: {len(texts)}")
        lines += [f"    {text}" for text in texts[: max(show, 0)] if text]
        if len(texts) > show > 0 and any(texts):
            lines.append(f"    ... and {len(texts) - show} more")
    return lines if found else [*lines, "  nothing to mend"]


if __name__ == "__main__":
    main()
