"""Inputs and outputs of the similarity functions."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class ConceptActivations:
    """The concept activations `P = I @ T.T` as their two factors.

    Args:
        image_embeds: `I`, unit rows, float32.
        text_embeds: `T`, unit rows, float32.
    """

    image_embeds: Float[Tensor, "images dims"]
    text_embeds: Float[Tensor, "concepts dims"]

    def dense(self) -> Float[Tensor, "images concepts"]:
        """Compute P whole; for small sets and tests."""
        return self.image_embeds @ self.text_embeds.T


@dataclass(frozen=True)
class TopActivations:
    """Every unit's most activating images, best first; equal activations in image order.

    Args:
        values: activations.
        indices: image numbers.
        images: number of images in the probe.
        layers: number of units per layer after `ranking.concat_layers`, because a marginal over
            units is per layer. Empty for a single layer.
    """

    values: Float[Tensor, "k units"]
    indices: Int[Tensor, "k units"]
    images: int
    layers: tuple[int, ...] = ()

    def select(self, units: Tensor) -> TopActivations:
        """Return some units of a single layer, by mask or number."""
        return TopActivations(self.values[:, units], self.indices[:, units], self.images)


@dataclass(frozen=True)
class Best:
    """The best concepts of every unit, best first; equal scores in concept order.

    Args:
        concepts: concept numbers.
        scores: similarities; larger is better.
        margin: best score minus the runner-up's; NaN with a single concept.
        resolution: smallest score difference that float32 resolves; see `Plan.magnitudes`.
    """

    concepts: Int[Tensor, "units n"]
    scores: Float[Tensor, "units n"]
    margin: Float[Tensor, " units"]
    resolution: Float[Tensor, " units"]

    @property
    def tied(self) -> Bool[Tensor, " units"]:
        """Units whose best two scores are closer than the resolution."""
        return self.margin <= self.resolution
