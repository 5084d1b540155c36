"""`g`: from what a layer returns to one number per image and unit."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
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
            `auto`, which tells them apart by the layer's width and the map's proportions.

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

    def __call__(self, output: Tensor, context: Context) -> Float[Tensor, "images units"]:
        """`summarise` with these settings."""
        return summarise(output, self, context)


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
        return _plain(output, layer)
    raise DissectError(
        f"layer {layer} returned {describe_output(output)}, not a tensor. {_advice(output, layer)}"
    )


@dataclass(frozen=True)
class Context:
    """What tells the axes of a layer's output apart.

    Args:
        layer: its name, for errors.
        has_class_token: whether the network puts a class token first.
        input_size: height and width of the network's input.
        features: units of the layer's last part that has weights, if any.
        from_convolution: whether that part is a convolution or a norm of one.
    """

    layer: str = "layer"
    has_class_token: bool = False
    input_size: tuple[int, int] = (1, 1)
    features: int | None = None
    from_convolution: bool = False


def summarise(output: Tensor, summary: Summary, context: Context) -> Float[Tensor, "images units"]:
    """Activations `[images, units]`, float32, of a layer's output.

    Args:
        output: `[images, units]`, `[images, tokens, units]`, `[images, units, h, w]`, or
            `[images, h, w, units]`.
        summary: how to sum up; vectors are taken as they are.
        context: what is known of the layer and the network.

    Raises:
        DissectError: another number of dimensions, `cls` asked of a map, or a map whose axis of
            units can't be told.
    """
    values = output.detach().float()
    if values.ndim == 2:
        return values
    if values.ndim == 3:
        return _over_tokens(values, summary.kind, context.has_class_token)
    if values.ndim == 4:
        if summary.kind == "cls":
            raise DissectError(
                f"layer {context.layer} returns maps {tuple(values.shape)}, which have no class "
                f"token: use summary mean or max for it"
            )
        layout = layout_of(values, context, summary.layout)
        positions = (1, 2) if layout == "channels_last" else (2, 3)
        return values.amax(positions) if summary.kind == "max" else values.mean(positions)
    raise DissectError(
        f"layer {context.layer} returns a tensor of shape {tuple(values.shape)}; only vectors, "
        f"tokens and maps (2 to 4 dimensions) can be summed up"
    )


def _over_tokens(values: Tensor, kind: str, has_class_token: bool) -> Tensor:
    if kind == "max":
        return values.amax(1)
    if kind == "cls" or (kind == "auto" and has_class_token):
        return values[:, 0]
    return values.mean(1)


def layout_of(values: Tensor, context: Context, asked: str = "auto") -> str:
    """Which axis of maps holds the units: by the layer's own width, else by their proportions.

    Args:
        values: `[images, units, h, w]` or `[images, h, w, units]`.
        context: what is known of the layer and the network.
        asked: one of `LAYOUTS`.

    Raises:
        DissectError: it can't be told.
    """
    if asked != "auto":
        return asked
    _, first, second, third = values.shape
    has_width = first == context.features, third == context.features
    if has_width[0] != has_width[1]:
        return "channels_first" if has_width[0] else "channels_last"
    if has_width[0] and context.from_convolution:
        return "channels_first"
    has_shape = (
        _is_scaled((second, third), context.input_size),
        _is_scaled((first, second), context.input_size),
    )
    if has_shape[0] != has_shape[1]:
        return "channels_first" if has_shape[0] else "channels_last"
    raise DissectError(
        f"layer {context.layer} returns maps {tuple(values.shape)}, and which axis holds the units "
        f"can't be told: set the layout (capture.layout, or Summary(layout=...)) to channels_first "
        f"or channels_last"
    )


def _is_scaled(size: tuple[int, int], of: tuple[int, int]) -> bool:
    # Each side may be rounded by less than one position.
    return abs(size[0] * of[1] - size[1] * of[0]) < max(of) and (of[0] == of[1]) <= (
        size[0] == size[1]
    )


def _plain(output: Tensor, layer: str) -> Tensor:
    """An ordinary tensor of real numbers."""
    if output.is_complex():
        raise DissectError(
            f"layer {layer} returned complex numbers {tuple(output.shape)}, which have no order: "
            f"choose a layer of real numbers"
        )
    if output.is_quantized:
        return output.dequantize()
    is_dense = output.is_nested or output.layout == torch.strided
    return output if is_dense else output.to_dense()


def _pick(output: Any, part: str, layer: str) -> Any:
    parts = _parts(output)
    if part in parts:
        return parts[part]
    # The outputs of transformers are mappings that can be indexed too.
    values = list(output.values() if isinstance(output, Mapping) else _items(output))
    if part.isdecimal() and int(part) < len(values):
        return values[int(part)]
    raise DissectError(f"layer {layer}: there is no part [{part}] in {describe_output(output)}")


def _items(output: Any) -> Sequence[Any]:
    return output if isinstance(output, (tuple, list)) else ()


def _parts(output: Any) -> Mapping[str, Any]:
    """The named parts: of mappings, dataclasses, named tuples, and objects with tensors."""
    if isinstance(output, Mapping):
        return output
    if isinstance(output, tuple):
        return output._asdict() if hasattr(output, "_asdict") else {}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    held = getattr(output, "__dict__", {})
    parts = {name: value for name, value in held.items() if not name.startswith("_")}
    return parts if any(isinstance(v, (Tensor, tuple, list)) for v in parts.values()) else {}


def describe_output(output: Any) -> str:
    """What a layer returned, in words: its type, shapes and parts."""
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    if parts := _parts(output):
        inside = ", ".join(f"{k}: {describe_output(v)}" for k, v in parts.items())
        return f"a {type(output).__name__} of ({inside})"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of ({', '.join(describe_output(v) for v in output)})"
    return f"a {type(output).__name__}"


def _advice(output: Any, layer: str) -> str:
    name = layer.split("[")[0]
    if parts := _parts(output):
        return f"Select one part, such as '{name}[{next(iter(parts))}]'"
    if isinstance(output, (tuple, list)) and output:
        return f"Select one part, such as '{layer}[0]'"
    return "Choose a layer that returns a tensor"
