"""A target: the network being dissected, with what travels with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from clipdissect.errors import DissectError
from clipdissect.models.layer_patterns import LATENTS, expand
from clipdissect.sae.base import Sae
from clipdissect.targets.wrappers import check_initialised, plain_name, unwrap
from clipdissect.utils import hashing
from clipdissect.utils.hashing import Transform
from clipdissect.utils.short_repr import listed, short_repr


@dataclass(frozen=True)
class Target:
    """A network to dissect, with its preprocessing, default layers and class names.

    Args:
        model: the network; `DataParallel`, `torch.compile` and similar wrappers are removed.
        preprocess: PIL image to the network's input `[channels, h, w]`.
        layers: modules dissected by default; patterns are expanded (`layer_patterns.expand`).
        class_layer: the layer whose units are classes, if any.
        class_names: in unit order.
        notes: caveats to record with the results.
        weights: their name, `random`, or `sha256:...` of their file; None if unknown.
        saes: sparse autoencoders of `layers`; see `with_sae`.

    Raises:
        DissectError: a layer pattern without a match, a TorchScript program, or lazy modules
            without a shape.
    """

    name: str
    model: nn.Module
    preprocess: Transform
    layers: tuple[str, ...] = ()
    class_layer: str | None = None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    weights: str | None = None
    saes: Mapping[str, Sae] = field(default_factory=dict)

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

    def __repr__(self) -> str:
        layers = f"layers {listed(self.layers)}" if self.layers else ""
        return short_repr(self, layers)

    @property
    def digest(self) -> str:
        """Return a digest of the network, computed anew each time: it may have been trained."""
        return hashing.hash_model(self.model)

    @property
    def preprocess_digest(self) -> str:
        return hashing.hash_transform(self.preprocess)

    @property
    def modules(self) -> tuple[str, ...]:
        """Return the names of all modules but the network itself."""
        return tuple(name for name, _ in self.model.named_modules(remove_duplicate=False) if name)

    def with_preprocess(self, preprocess: Transform) -> Target:
        return replace(self, preprocess=preprocess)

    def with_sae(self, sae: Sae) -> Target:
        """Return a copy in which the latents are a layer's units; its name then ends in `{sae}`.

        Raises:
            DissectError: `sae.layer` isn't among the layers; or it is None and there are several.
        """
        layer, layers = sae.layer, list(self.layers)
        if layer is None and len(layers) == 1:
            layer = layers[0]
        if layer and layer not in layers:  # else a lazy target need not be built
            layer = plain_name(layer, self.model)
        if layer not in layers:
            hint = f" (its files name {sae.hook})" if sae.hook else ""
            wrong = f"sae.layer is {layer}, which isn't among" if layer else "sae.layer isn't set:"
            raise DissectError(
                f"{wrong} the layers {', '.join(layers) or '(none)'}: set sae.layer (layer=...) to "
                f"the one that the sparse autoencoder was trained on{hint}"
            )
        name = layer + LATENTS
        layers[layers.index(layer)] = name
        saes, notes = {**self.saes, name: sae.at(layer)}, (*self.notes, *sae.notes)
        return replace(self, layers=tuple(layers), saes=saes, notes=notes)

    @property
    def without_saes(self) -> Target:
        """Return a copy whose layers `name{sae}` are the layers themselves."""
        return replace(self, saes={})

    @property
    def facts(self) -> dict[str, Any]:
        """Return name, layers and weights for manifests, JSON-able."""
        return {"name": self.name, "layers": list(self.layers), "weights": self.weights}
