"""`g`: how a layer's positions are summarised, and which part of its output."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from clipdissect.arguments import check_fields
from clipdissect.errors import DissectError

SUMMARIES = ("auto", "mean", "max", "cls")
LAYOUTS = ("auto", "channels_first", "channels_last")
_PART = re.compile(r"\[([^\[\]]+)\]$")


@dataclass(frozen=True)
class Summary:
    """How activations of a layer are summed up.

    Args:
        kind: `mean` or `max` over positions (of tokens: over patches), `cls` (the class token), or
            `auto`: the class token where a layer has one that its network's output is made from,
            else mean.
        layout: of 4-dimensional outputs, `channels_first` (CNNs), `channels_last` (Swin), or
            `auto`, which tells them apart by a trial; see `reading`.

    Raises:
        DissectError: unknown kind or layout.
    """

    kind: str = "auto"
    layout: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self, "Summary's ")
        for value, valid, what in (
            (self.kind, SUMMARIES, "summary"),
            (self.layout, LAYOUTS, "layout"),
        ):
            if value not in valid:
                raise DissectError(f"{what} is '{value}'; it can be {', '.join(valid)}")


def split_layer(layer: str) -> tuple[str, tuple[str, ...]]:
    """A layer's module name and the parts selected of its output: `attn[0]` -> `attn`, `("0",)`."""
    parts: list[str] = []
    while match := _PART.search(layer):
        parts.insert(0, match.group(1))
        layer = layer[: match.start()]
    return layer, tuple(parts)


def select(output: Any, parts: tuple[str, ...], layer: str) -> Tensor:
    """The tensor that `parts` selects of a layer's output.

    Raises:
        DissectError: the output isn't a tensor, or has no such part; says what there is.
    """
    for part in parts:
        output = _pick(output, part, layer)
    if isinstance(output, Tensor):
        return output
    raise DissectError(
        f"layer {layer} returned {describe_output(output)}, not a tensor. {_advice(output, layer)}"
    )


def _pick(output: Any, part: str, layer: str) -> Any:
    if isinstance(output, Mapping) and part in output:
        return output[part]
    is_index = isinstance(output, (tuple, list)) and part.isdecimal()
    if is_index and int(part) < len(output):
        return output[int(part)]
    raise DissectError(f"layer {layer}: there is no part [{part}] in {describe_output(output)}")


def describe_output(output: Any) -> str:
    """What a layer returned, in words: its type, shapes and parts."""
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    if isinstance(output, Mapping):
        inside = ", ".join(f"{k}: {describe_output(v)}" for k, v in output.items())
        return f"a {type(output).__name__} of ({inside})"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of ({', '.join(describe_output(v) for v in output)})"
    return f"a {type(output).__name__}"


def _advice(output: Any, layer: str) -> str:
    name = layer.split("[")[0]
    if isinstance(output, Mapping) and output:
        return f"Select one part, such as '{name}[{next(iter(output))}]'"
    if isinstance(output, (tuple, list)) and output:
        return f"Select one part, such as '{layer}[0]'"
    return "Choose a layer that returns a tensor"
