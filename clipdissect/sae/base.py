"""A sparse autoencoder, and the layer whose activations it encodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipdissect.errors import DissectError, one_line
from clipdissect.sae.modules import LinearEncoder, LinearSae
from clipdissect.utils import hashing
from clipdissect.utils.short_repr import count, short_repr


@dataclass(frozen=True)
class Sae:
    """A sparse autoencoder whose latents are described as units of a layer.

    Args:
        name: such as the folder's.
        module: has `encode(x [..., inputs]) -> codes [..., latents]` and, where it reconstructs its
            input, `decode(codes) -> [..., inputs]`.
        layer: the target's layer that it encodes; None: the only layer.
        format: the option of the config group that it was read by.
        hook: the layer's name in its files, in the terms of the library that wrote them.
        inputs: size of an activation; None if unknown.
        latents: None if unknown.
        decoder: the directions of the latents.
        summary: of codes over the tokens that it was trained on: `max` (patches) or `cls`.
        facts: further facts of its files, such as `architecture` or `k`, JSON-able.
        notes: caveats to record with the results.
    """

    name: str
    module: nn.Module
    layer: str | None = None
    format: str = "module"
    hook: str | None = None
    inputs: int | None = None
    latents: int | None = None
    decoder: Float[Tensor, "latents inputs"] | None = field(default=None, repr=False)
    summary: str = "max"
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        latents = "" if self.latents is None else count(self.latents, "latent")
        return short_repr(self, latents, f"layer {self.layer}" if self.layer else "")

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... latents"]:
        """Return the codes of activations; raise a DissectError if they don't fit."""
        self.check_inputs(x.shape[-1])
        weight = next(self.module.parameters(), x)
        if not isinstance(self.module, LinearEncoder):
            x = x.clone()  # it may be the network's own, which the user's code must not change
        codes = self._run("encode", x.to(weight.dtype))
        if not isinstance(codes, Tensor) or codes.shape[:-1] != x.shape[:-1]:
            got = tuple(codes.shape) if isinstance(codes, Tensor) else f"a {type(codes).__name__}"
            raise DissectError(
                f"sae {self.name}: encode must return codes [..., latents] of activations "
                f"{tuple(x.shape)}; it returned {got}"
            )
        return codes

    @torch.no_grad()
    def decode(
        self, codes: Float[Tensor, "... latents"], x: Float[Tensor, "... inputs"]
    ) -> Float[Tensor, "... inputs"]:
        """Return reconstructions from the codes of activations x, whose normalisation is undone.

        Raises:
            DissectError: it doesn't reconstruct its input; see `decodes`.
        """
        if not self.decodes:
            raise DissectError(f"sae {self.name} has no decode: it doesn't reconstruct its input")
        # Other modules than ours remember what they need of the activations, or need nothing.
        arguments = (codes, x) if isinstance(self.module, LinearSae) else (codes,)
        reconstructed: Tensor = self._run("decode", *arguments)
        return reconstructed

    def _run(self, method: str, *arguments: Tensor) -> Any:
        function: Any = getattr(self.module, method)
        try:
            return function(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the user's own code
            reason = one_line(error)
            raise DissectError(
                f"sae {self.name}: {method} failed on {tuple(arguments[0].shape)} with "
                f"{type(error).__name__}: {reason}"
            ) from error

    def check_inputs(self, units: int, layer: str = "") -> None:
        """Raise a DissectError unless a layer has as many units as the encoder has inputs."""
        if self.inputs is not None and units != self.inputs:
            name = layer or self.layer
            raise DissectError(
                f"sae {self.name} encodes activations of {self.inputs} units, but "
                f"{f'layer {name}' if name else 'the layer'} has {units}: it was trained on "
                f"another layer or network"
            )

    @property
    def decodes(self) -> bool:
        """Whether it reconstructs its input, unlike a transcoder."""
        return callable(getattr(self.module, "decode", None))

    @property
    def digest(self) -> str:
        """Return a digest of tensors, settings and code, computed anew each time."""
        return hashing.hash_model(self.module)

    def at(self, layer: str) -> Sae:
        """Return a copy for a layer of the target."""
        return replace(self, layer=layer)

    @property
    def description(self) -> dict[str, Any]:
        """Return the facts for manifests, JSON-able."""
        values = {"name": self.name, "format": self.format, "hook": self.hook, **self.facts}
        return values | {"inputs": self.inputs, "latents": self.latents}
