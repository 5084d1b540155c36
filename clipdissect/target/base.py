"""A target: the network being dissected, with what travels with it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from clipdissect.digest import Transform


@dataclass(frozen=True)
class Target:
    """`f`, its preprocessing, its default layers and, where known, its classes.

    Args:
        name: what to call it in results.
        model: the network.
        preprocess: PIL image to the network's input `[channels, h, w]`.
        layers: modules dissected by default, by dotted name.
        class_layer: the layer whose units are classes, if any.
        class_names: the classes' names, in unit order.
    """

    name: str
    model: nn.Module
    preprocess: Transform
    layers: tuple[str, ...] = ()
    class_layer: str | None = None
    class_names: tuple[str, ...] = ()
