"""Pooling `g` of a layer's positions, and selection of one part of its output."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.utils.type_checks import check_choice, check_fields, checked_fields

COUNT = "count"
SUMMARIES = ("auto", "mean", "max", "cls", COUNT)
LAYOUTS = ("auto", "channels_first", "channels_last")


@checked_fields
@dataclass(frozen=True)
class Summary:
    """How a layer's activations are pooled to one number per unit and image.

    Args:
        kind: `mean` or `max` over positions (for tokens: patches), `cls` (class token), `count` (of
            latents only: the share of positions at which they fire), or `auto`: the class token
            where the network's output comes from it, else mean; of latents max.
        layout: of 4-dimensional outputs: `channels_first`, `channels_last`, or `auto` (inferred).
    """

    kind: str = "auto"
    layout: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self, "Summary's ")
        check_choice("summary", self.kind, SUMMARIES)
        check_choice("layout", self.layout, LAYOUTS)


def select(output: Any, parts: tuple[str, ...], layer: str) -> Tensor:
    """Return the real tensor that `parts` selects from a layer's output."""
    for part in parts:
        output = _pick(output, part, layer)
    if not isinstance(output, Tensor):
        raise DissectError(
            f"layer {layer} returned {describe_output(output)}, not a tensor. "
            f"{_advice(output, layer)}"
        )
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
    parts = _named_parts(output)
    if part in parts:
        return parts[part]
    # The outputs of transformers are mappings that can be indexed too.
    values = list(output.values()) if isinstance(output, Mapping) else output
    if isinstance(values, (tuple, list)) and part.isdecimal() and int(part) < len(values):
        return values[int(part)]
    raise DissectError(f"layer {layer}: there is no part [{part}] in {describe_output(output)}")


def _named_parts(output: Any) -> Mapping[str, Any]:
    """Return the parts of mappings, dataclasses, named tuples, and objects with tensors."""
    if isinstance(output, Mapping):
        return output
    if isinstance(output, tuple):
        return output._asdict() if hasattr(output, "_asdict") else {}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    attributes = getattr(output, "__dict__", {})
    parts = {name: value for name, value in attributes.items() if not name.startswith("_")}
    return parts if any(isinstance(v, (Tensor, tuple, list)) for v in parts.values()) else {}


def describe_output(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)}"
    if parts := _named_parts(output):
        inside = ", ".join(f"{k}: {describe_output(v)}" for k, v in parts.items())
        return f"a {type(output).__name__} of ({inside})"
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of ({', '.join(describe_output(v) for v in output)})"
    return f"a {type(output).__name__}"


def _advice(output: Any, layer: str) -> str:
    name = layer.split("[")[0]
    if parts := _named_parts(output):
        return f"Select one part, such as '{name}[{next(iter(parts))}]'"
    if isinstance(output, (tuple, list)) and output:
        return f"Select one part, such as '{layer}[0]'"
    return "Choose a layer that returns a tensor"
