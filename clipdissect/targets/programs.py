"""Networks saved by torch.export."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipdissect.errors import DissectError, one_line
from clipdissect.models.checkpoints import check_file
from clipdissect.targets.base import Target
from clipdissect.targets.own import Given, finish
from clipdissect.utils import hashing


def exported(
    path: str,
    layers: list[str] | None = None,
    preprocess: dict[str, Any] | None = None,
    transform: str | None = None,
    classes: str | None = None,
    class_layer: str | None = None,
) -> Target:
    """Return a program of `torch.export.save` (.pt2), unflattened into its modules.

    Args:
        path: the file.
        layers, preprocess, transform, classes, class_layer: see `own.module`.

    Raises:
        MissingResource: no such file.
        DissectError: not such a program, or one with a fixed batch size above 1.
    """
    file = _existing(path)
    with _quiet(), _loading(file, "a program of torch.export.save"):
        program: Any = torch.export.load(str(file))
        images = _batch_of(program)
        network: nn.Module = torch.export.unflatten(program)
    if images is not None and images > 1:
        raise DissectError(
            f"{file} takes {images} images at once and no other number: export it with "
            f"dynamic_shapes=({{0: torch.export.Dim('batch')}},)"
        )
    if images == 1:
        network.register_forward_pre_hook(_one_image)
    options = Given(layers, preprocess, transform, classes, class_layer)
    return finish(file.name, network, options, weights=f"sha256:{hashing.hash_file(file)}")


def _existing(path: str) -> Path:
    file = Path(path).expanduser()
    check_file(file, "the program", "set target.path to the file")
    return file


@contextlib.contextmanager
def _loading(file: Path, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # torch fails in many ways on other files
        reason = one_line(error, 200)
        raise DissectError(f"{file} is not {what}, or of another version: {reason}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    # torch warns of operators that it registers twice.
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _batch_of(program: Any) -> int | None:
    """Return the batch size an exported program requires, or None for any."""
    inputs = program.graph_signature.user_inputs
    node = next(n for n in program.graph.nodes if n.op == "placeholder" and n.name in inputs)
    size = node.meta["val"].shape[0]
    return int(size) if isinstance(size, int) else None


def _one_image(model: nn.Module, inputs: Any) -> None:
    if len(inputs[0]) != 1:
        raise DissectError(
            "the exported program takes one image at once: set capture.batch_size=1, or export it "
            "with a dynamic first dimension"
        )
