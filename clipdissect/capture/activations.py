"""What is kept of a layer's activations: all of them, or every unit's top images.

`Activations` is either; the functions below answer the same questions of both, alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clipdissect.similarity.inputs import TopActivations
from clipdissect.similarity.ranking import merge, top_images


@dataclass(frozen=True)
class TopKActivations:
    """The top images of every unit, running: parts of a probe are merged in any order.

    Args:
        top: the images, best first.
        distinct: up to `k` different activations of each unit, `[k, units]`, NaN where there are
            fewer; a column of infinities once there were `k`.
    """

    top: TopActivations
    distinct: Float[Tensor, "k units"]

    @classmethod
    def of(
        cls, values: Float[Tensor, "rows units"], images: Int[Tensor, " rows"], k: int
    ) -> TopKActivations:
        """From the activations of some images.

        Args:
            values: activations.
            images: the rows' image numbers, increasing.
            k: how many images to keep; at least 2, or no unit can be told to be dead.
        """
        top = top_images(values, min(k, len(values)))
        numbered = TopActivations(
            top.values, images.to(top.indices.device)[top.indices], top.images
        )
        return cls(numbered, _distinct(values.float(), k))

    def merged(self, other: TopKActivations, k: int) -> TopKActivations:
        """With another part of the same probe, to the top `k`."""
        settled = self.settled | other.settled
        open_ = (~settled).nonzero()[:, 0]
        distinct = torch.full_like(self.distinct, torch.inf)
        both = torch.cat([self.distinct[:, open_], other.distinct[:, open_]])
        distinct[:, open_] = _distinct(both, k)
        return TopKActivations(merge(self.top, other.top, k), distinct)

    @property
    def settled(self) -> Bool[Tensor, " units"]:
        """Units with at least `k` different activations."""
        return self.distinct[0] == torch.inf

    @property
    def count(self) -> Int[Tensor, " units"]:
        """How many different activations each unit has, `k` standing for `k` and more."""
        return (~self.distinct.isnan()).sum(0)

    def select(self, units: Tensor) -> TopKActivations:
        """Some of the units, by mask or number."""
        return TopKActivations(self.top.select(units), self.distinct[:, units])

    def renumbered(self, positions: Int[Tensor, " images"], images: int) -> TopKActivations:
        """With other image numbers: `positions[i]` for image i, of `images` in all."""
        top = TopActivations(self.top.values, positions[self.top.indices], images)
        return TopKActivations(top, self.distinct)


Activations = Tensor | TopKActivations


def units_of(activations: Activations) -> int:
    """How many units there are."""
    values = activations.top.values if isinstance(activations, TopKActivations) else activations
    return int(values.shape[1])


def for_scoring(activations: Activations, units: Bool[Tensor, " units"]) -> Tensor | TopActivations:
    """Those units' activations, as the similarity functions take them."""
    if isinstance(activations, TopKActivations):
        return activations.top if bool(units.all()) else activations.select(units).top
    return activations if bool(units.all()) else activations[:, units]


def top_of(activations: Activations, k: int) -> TopActivations:
    """Every unit's `k` top images; as many as there are, or were kept, where that is fewer."""
    if not isinstance(activations, TopKActivations):
        return top_images(activations, min(k, len(activations)))
    top = activations.top
    return TopActivations(top.values[:k], top.indices[:k], top.images)


def dead_units(activations: Activations) -> Bool[Tensor, " units"]:
    """Units that never vary."""
    if isinstance(activations, TopKActivations):
        return activations.count == 1
    return activations.amax(0) == activations.amin(0)


def few_distinct(activations: Activations, top: TopActivations | None) -> Bool[Tensor, " units"]:
    """Which units have fewer distinct activations than images among their top ones.

    Args:
        activations: of a layer's units.
        top: their top images, as of `top_of`; None for functions that look at no top images, where
            no unit has too few.
    """
    if top is None:
        return torch.zeros(units_of(activations), dtype=torch.bool)
    if isinstance(activations, TopKActivations):
        return activations.count < len(top.values)
    # Most units have distinct top activations, which settles it; only the others are sorted whole.
    suspects = (top.values[1:] == top.values[:-1]).any(0).nonzero()[:, 0]
    ordered = activations[:, suspects].sort(0).values
    distinct = 1 + (ordered[1:] != ordered[:-1]).sum(0)
    few = torch.zeros(activations.shape[1], dtype=torch.bool)
    few[suspects] = distinct < len(top.values)
    return few


def _distinct(values: Float[Tensor, "rows units"], k: int) -> Float[Tensor, "k units"]:
    """Up to k different values a column, NaN-padded; infinities where there are k."""
    ordered = values.sort(0).values
    repeated = torch.zeros_like(ordered, dtype=torch.bool)
    repeated[1:] = ordered[1:] == ordered[:-1]
    ordered = ordered.masked_fill(repeated, torch.nan).sort(0).values[:k]
    out = torch.full((k, values.shape[1]), torch.nan, dtype=torch.float32, device=values.device)
    out[: len(ordered)] = ordered
    out[:, ~out[-1].isnan()] = torch.inf
    return out
