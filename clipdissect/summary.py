"""`g`: from what a layer returns to one number per image and unit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from clipdissect.errors import DissectError

SUMMARIES = ("auto", "mean", "max", "cls")
LAYOUTS = ("auto", "channels_first", "channels_last")
_PART = re.compile(r"\[([^\[\]]+)\]$")


@dataclass(frozen=True)
class Summary:
    """How activations of a layer are summed up.

    Args:
        kind: `mean` or `max` over positions, `cls` (the first token), or `auto`: mean for maps;
            for tokens cls where the network has a class token, else mean.
        layout: of 4-dimensional outputs, `channels_first` (CNNs), `channels_last` (Swin), or
            `auto`, which tells them apart by the two equal sides of the map.

    Raises:
        DissectError: unknown kind or layout.
    """

    kind: str = "auto"
    layout: str = "auto"

    def __post_init__(self) -> None:
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
        f"layer {layer} returned {_describe(output)}, not a tensor. {_advice(output, layer)}"
    )


def summarise(
    output: Tensor, summary: Summary, has_class_token: bool, square_input: bool, layer: str
) -> Float[Tensor, "images units"]:
    """Activations `[images, units]`, float32, of a layer's output.

    Args:
        output: `[images, units]`, `[images, tokens, units]`, `[images, units, h, w]`, or
            `[images, h, w, units]`.
        summary: how to sum up; vectors are taken as they are.
        has_class_token: whether the network puts a class token first.
        square_input: whether the network's input is square, which `layout=auto` relies on.
        layer: for the error.

    Raises:
        DissectError: another number of dimensions, or `cls` asked of a map.
    """
    values = output.detach().float()
    if values.ndim == 2:
        return values
    if values.ndim == 3:
        return _over_tokens(values, summary.kind, has_class_token)
    if values.ndim == 4:
        if summary.kind == "cls":
            raise DissectError(
                f"layer {layer} returns maps {tuple(values.shape)}, which have no "
                f"class token: use summary mean or max for it"
            )
        last = _is_channels_last(values, summary.layout, square_input)
        positions = (1, 2) if last else (2, 3)
        return values.amax(positions) if summary.kind == "max" else values.mean(positions)
    raise DissectError(
        f"layer {layer} returns a tensor of shape {tuple(values.shape)}; only "
        f"vectors, tokens and maps (2 to 4 dimensions) can be summed up"
    )


def _over_tokens(values: Tensor, kind: str, has_class_token: bool) -> Tensor:
    if kind == "max":
        return values.amax(1)
    if kind == "cls" or (kind == "auto" and has_class_token):
        return values[:, 0]
    return values.mean(1)


def _is_channels_last(values: Tensor, layout: str, square_input: bool) -> bool:
    if layout != "auto":
        return layout == "channels_last"
    _, first, second, third = values.shape
    return square_input and first == second != third


def _pick(output: Any, part: str, layer: str) -> Any:
    if isinstance(output, Mapping) and part in output:
        return output[part]
    is_index = isinstance(output, (tuple, list)) and part.isdecimal()
    if is_index and int(part) < len(output):
        return output[int(part)]
    raise DissectError(f"layer {layer}: there is no part [{part}] in {_describe(output)}")


def _describe(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    if isinstance(output, Mapping):
        inside = ", ".join(f"{k}: {_describe(v)}" for k, v in output.items())
        return f"a {type(output).__name__} of ({inside})"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of ({', '.join(_describe(v) for v in output)})"
    return f"a {type(output).__name__}"


def _advice(output: Any, layer: str) -> str:
    name = layer.split("[")[0]
    if isinstance(output, Mapping) and output:
        return f"Select one part, such as '{name}[{next(iter(output))}]'"
    if isinstance(output, (tuple, list)) and output:
        return f"Select one part, such as '{layer}[0]'"
    return "Choose a layer that returns a tensor"
