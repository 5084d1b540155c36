"""Check a sparse autoencoder's files: format, layer, sizes, what encode and decode compute.

clipdissect sae FOLDER
clipdissect sae sae=overcomplete sae.path=sae.pt sae.kind=topk sae.k=32
"""

from __future__ import annotations

import argparse
import logging
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from clipdissect.app.commands import command_parser, exit_on_user_errors
from clipdissect.app.help import conf_folder
from clipdissect.app.launch import set_up_logging

if TYPE_CHECKING:
    from clipdissect.sae import Sae


@exit_on_user_errors
def main() -> None:
    """Exit with 0 when it can be used, 2 on a mistake in the request or the files."""
    options = _parser().parse_args()
    set_up_logging(logging.WARNING)
    parameters = _parameters(options.sae)
    if options.layer is not None:
        parameters["layer"] = options.layer
    from clipdissect.errors import DissectError
    from clipdissect.sae import build

    sae = build(**parameters)
    if sae is None:
        raise DissectError("sae=none has nothing to show: name a folder or another option")
    lines = list(_report(sae, parameters.get("path")))
    width = max(len(label) for label, _ in lines)
    print(sae.name)
    for label, text in lines:
        print(f"  {label:<{width}}  {text}")
    for note in sae.notes:
        print(f"note: {note}")
    print(f"describe its latents with:\n  {_command(sae, options.sae)}")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("sae", __doc__)
    description = (
        "the folder, or the weights file in it; or sae=<format> sae.<parameter>=<value> "
        f"({', '.join(_names())})"
    )
    parser.add_argument("sae", nargs="+", help=description, metavar="FOLDER")
    parser.add_argument("--layer", help="the target's layer that it encodes, for the last line")
    return parser


def _names() -> list[str]:
    return sorted(path.stem for path in (conf_folder() / "sae").glob("*.yaml"))


def _is_override(argument: str) -> bool:
    return argument.startswith(("sae=", "sae.")) and "=" in argument  # sae.pt is a file


def _parameters(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of `sae.build`, with `name`."""
    from clipdissect.errors import DissectError

    overrides = list(filter(_is_override, arguments))
    paths = [a for a in arguments if a not in overrides]
    if len(paths) > 1 or (paths and overrides):
        raise DissectError(
            f"one folder, or sae=<format> sae.path=<folder>; got {' '.join(arguments)}"
        )
    if paths:
        from clipdissect.sae.detect import recognise

        return {"name": recognise(paths[0]), "path": paths[0]}
    from hydra import compose, initialize_config_dir

    from clipdissect.app.build import parameters
    from clipdissect.app.schema import register

    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return parameters(compose("config", overrides=overrides).sae)


def _report(sae: Sae, path: str | None) -> Iterator[tuple[str, str]]:
    """Yield labels and values."""
    yield "format", sae.format
    tokens = " (class tokens)" if sae.summary == "cls" else ""
    yield "layer", f"{sae.hook or 'not in its files'}{tokens}"
    yield "inputs", str(sae.inputs or "unknown")
    yield "latents", str(sae.latents or "unknown")
    describe: Any = getattr(sae.module, "describe", None)
    own = {"encode": f"{type(sae.module).__name__}.encode"}
    yield from (describe() if callable(describe) else own).items()
    yield "L0", _sparsity(sae)
    if sae.decoder is not None:
        yield "decoder", _norms(sae)
    yield from ((key, str(value)) for key, value in sae.facts.items() if key != "k")
    if path is not None:
        yield "files", ", ".join(_files(path))
        yield (
            "checks",
            "passed: tensors are finite, and shapes agree with each other and the config",
        )


def _sparsity(sae: Sae) -> str:
    k = sae.facts.get("k")
    if k is None:
        return "not limited"
    limit = getattr(getattr(sae.module, "activation", None), "k", None)
    return f"at most {k} per activation" if limit else f"{k} per activation on average, in training"


def _norms(sae: Sae) -> str:
    assert sae.decoder is not None
    norms = sae.decoder.norm(dim=1)
    dead = int((norms == 0).sum())
    alive = norms[norms > 0]
    if not len(alive):
        return f"all {dead} rows are 0"
    low, high = f"{float(alive.min()):.4g}", f"{float(alive.max()):.4g}"
    spread = f"norms of rows {low}" + (f" to {high}" if high != low else "")
    return f"{spread}; {dead or 'no'} row{'' if dead == 1 else 's'} of 0 (dead latents)"


def _files(path: str) -> list[str]:
    from clipdissect.sae.reading import locate
    from clipdissect.utils.files import human_size

    files = locate(path)
    configs = sorted(files.folder.glob("*.json"))
    found = [*configs, *files.candidates()]
    return [f"{file.name} {human_size(file.stat().st_size)}" for file in found]


def _command(sae: Sae, arguments: Sequence[str]) -> str:
    """Return the command line for the arguments that were given to this command."""
    from clipdissect.app.user_errors import on_command_line

    words = [shlex.quote(argument) for argument in arguments if _is_override(argument)]
    if not words:
        path = on_command_line(f"sae.path={arguments[0]}")
        words = [f"sae={sae.format}", path or "sae.path=<the folder>"]
    if not any(word.startswith("sae.layer=") for word in words):
        layer = on_command_line(f"sae.layer={sae.layer}") if sae.layer else None
        words.append(layer or "sae.layer=<its layer>")
    return " ".join(["clipdissect dissect target=<network>", *words])
