"""A target: the network being dissected, with what travels with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from clipdissect.errors import DissectError
from clipdissect.models.layer_patterns import expand
from clipdissect.targets.wrappers import check_initialised, plain_name, unwrap
from clipdissect.utils.hashing import Transform


@dataclass(frozen=True)
class Target:
    """`f`, its preprocessing, its default layers and, where known, its classes.

    Args:
        name: what to call it in results.
        model: the network; `DataParallel`, `torch.compile` and the like are taken off.
        preprocess: PIL image to the network's input `[channels, h, w]`.
        layers: modules dissected by default, by dotted name; patterns are expanded, see
            `clipdissect.models.layer_patterns.expand`.
        class_layer: the layer whose units are classes, if any.
        class_names: the classes' names, in unit order.
        notes: what a reader of the results must know about it.
        weights: which they are: their name, `random`, or `sha256:...` of their file; None where
            it isn't known.

    Raises:
        DissectError: a pattern among the layers matches nothing, a TorchScript program, or lazy
            modules without a shape.
    """

    name: str
    model: nn.Module
    preprocess: Transform
    layers: tuple[str, ...] = ()
    class_layer: str | None = None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    weights: str | None = None

    def __post_init__(self) -> None:
        model = unwrap(self.model)
        if isinstance(model, torch.jit.ScriptModule):
            raise DissectError(
                "TorchScript programs are not supported: export with torch.export "
                "(target=exported), or pass the original module"
            )
        check_initialised(model)
        layers = [plain_name(layer, model) for layer in self.layers]
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "layers", expand(model, layers))
        if self.class_layer is not None:
            object.__setattr__(self, "class_layer", plain_name(self.class_layer, model))

    @property
    def facts(self) -> dict[str, Any]:
        """JSON-able, for manifests: name, layers and weights."""
        return {"name": self.name, "layers": list(self.layers), "weights": self.weights}
