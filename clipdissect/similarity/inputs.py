"""Inputs and outputs of the similarity functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class ConceptActivations:
    """The concept activations `P = I @ T.T` as two float32 factors with unit-length rows."""

    image_embeds: Float[Tensor, "images dims"]
    text_embeds: Float[Tensor, "concepts dims"]
    # Numbers of consecutive rows that shuffling keeps apart, such as images and crops; none: all.
    groups: tuple[int, ...] = field(default=(), kw_only=True)

    def to(self, device: torch.device | str) -> ConceptActivations:
        """Return a copy on the device, or this one if it is there."""
        images, texts = self.image_embeds.to(device), self.text_embeds.to(device)
        return replace(self, image_embeds=images, text_embeds=texts)

    def dense(self) -> Float[Tensor, "images concepts"]:
        """Return P as one dense matrix, for small sets and tests."""
        return self.image_embeds @ self.text_embeds.T


@dataclass(frozen=True)
class TopActivations:
    """Top-k images per unit, best first; ties in image order."""

    values: Float[Tensor, "k units"]
    indices: Int[Tensor, "k units"]
    images: int
    # Units per layer after `ranking.concat_layers`, because a marginal over units is per layer.
    layers: tuple[int, ...] = ()
    # Further rows per layer, after the units of all layers: scored with the layer's marginal, of
    # which they are no part.
    extra: tuple[int, ...] = ()

    def to(self, device: torch.device | str) -> TopActivations:
        """Return a copy on the device, or this one if it is there."""
        return replace(self, values=self.values.to(device), indices=self.indices.to(device))

    def select(self, units: Tensor) -> TopActivations:
        """Return some units of a single layer, by mask or number."""
        return TopActivations(self.values[:, units], self.indices[:, units], self.images)


@dataclass(frozen=True)
class Best:
    """The best concepts per unit, best first; ties in concept order."""

    concepts: Int[Tensor, "units n"]
    scores: Float[Tensor, "units n"]
    margin: Float[Tensor, " units"]  # over the runner-up; NaN with a single concept
    resolution: Float[Tensor, " units"]  # smallest resolved score difference; see `Plan`
    # Scores of the same concepts by an earlier stage, where there are two.
    first_scores: Float[Tensor, "units n"] | None = None

    def split(self, sizes: Sequence[int]) -> list[Best]:
        """Return the results of consecutive groups of units."""
        parts = [
            [None] * len(sizes) if value is None else torch.split(value, list(sizes))
            for value in (getattr(self, entry.name) for entry in fields(self))
        ]
        return [Best(*part) for part in zip(*parts, strict=True)]

    @property
    def tied(self) -> Bool[Tensor, " units"]:
        """Return which units have a margin within the resolution."""
        return self.margin <= self.resolution
