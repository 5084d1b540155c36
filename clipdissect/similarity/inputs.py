"""What the similarity functions read and return."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class ConceptActivations:
    """The concept activations `P = I @ T.T`, kept as their two factors and never built whole.

    Args:
        image_embeds: `I [images, dims]`, unit rows, float32.
        text_embeds: `T [concepts, dims]`, unit rows, float32.
    """

    image_embeds: Float[Tensor, "images dims"]
    text_embeds: Float[Tensor, "concepts dims"]

    def dense(self) -> Float[Tensor, "images concepts"]:
        """`P [images, concepts]`, whole; for small sets and for tests."""
        return self.image_embeds @ self.text_embeds.T


@dataclass(frozen=True)
class TopActivations:
    """Every unit's most activating images, best first; equal activations in image order.

    Args:
        values: activations, `[k, units]`.
        indices: image numbers, `[k, units]`.
        images: how many images they were taken from.
        layers: units of each layer where those of several stand side by side, as of
            `ranking.beside`: a marginal over units is over each layer's own. Empty for one layer.
    """

    values: Float[Tensor, "k units"]
    indices: Int[Tensor, "k units"]
    images: int
    layers: tuple[int, ...] = ()

    def select(self, units: Tensor) -> TopActivations:
        """Some of one layer's units, by mask or number."""
        return TopActivations(self.values[:, units], self.indices[:, units], self.images)


@dataclass(frozen=True)
class Best:
    """The best concepts of every unit, best first; equal scores in concept order.

    Args:
        concepts: concept numbers, `[units, n]`.
        scores: similarities, `[units, n]`, larger is better.
        margin: best score minus the runner-up's, `[units]`; NaN where there is one concept.
        resolution: what float32 tells apart of a unit's scores, `[units]`, see `Plan.magnitudes`.
    """

    concepts: Int[Tensor, "units n"]
    scores: Float[Tensor, "units n"]
    margin: Float[Tensor, " units"]
    resolution: Float[Tensor, " units"]

    @property
    def tied(self) -> Bool[Tensor, " units"]:
        """Units whose best two scores are closer than float32 tells apart."""
        return self.margin <= self.resolution
