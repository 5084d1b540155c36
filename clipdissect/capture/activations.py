"""Activations of one layer: on all images, or the top-k images per unit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clipdissect.similarity.inputs import TopActivations
from clipdissect.similarity.ranking import merge, top_images


@dataclass(frozen=True)
class TopKActivations:
    """Running top-k images per unit; parts of a probe can be merged in any order."""

    top: TopActivations  # best first
    # Up to k distinct activations per unit, NaN-padded; a column of infinities once there are k.
    distinct: Float[Tensor, "k units"]

    @classmethod
    def of(
        cls, values: Float[Tensor, "rows units"], images: Int[Tensor, " rows"], k: int
    ) -> TopKActivations:
        """Select the top `k` (at least 2, to detect dead units) of increasing `images`."""
        top = top_images(values, min(k, len(values)))
        indices = images.to(top.indices.device)[top.indices]
        return cls(TopActivations(top.values, indices, top.images), _distinct(values.float(), k))

    def merged(self, other: TopKActivations, k: int) -> TopKActivations:
        """Merge with another part of the same probe."""
        unsettled = (~(self.settled | other.settled)).nonzero()[:, 0]
        distinct = torch.full_like(self.distinct, torch.inf)
        both = torch.cat([self.distinct[:, unsettled], other.distinct[:, unsettled]])
        distinct[:, unsettled] = _distinct(both, k)
        return TopKActivations(merge(self.top, other.top, k), distinct)

    @property
    def settled(self) -> Bool[Tensor, " units"]:
        """Units with at least `k` distinct activations."""
        return self.distinct[0] == torch.inf

    @property
    def count(self) -> Int[Tensor, " units"]:
        """Distinct activations per unit, at most `k`."""
        return (~self.distinct.isnan()).sum(0)

    def to(self, device: torch.device | str) -> TopKActivations:
        """Return a copy on the device."""
        return TopKActivations(self.top.to(device), self.distinct.to(device))

    def select(self, units: Tensor) -> TopKActivations:
        return TopKActivations(self.top.select(units), self.distinct[:, units])

    def renumbered(self, positions: Int[Tensor, " images"], images: int) -> TopKActivations:
        """Replace image number i by `positions[i]`, out of `images` in all."""
        top = TopActivations(self.top.values, positions[self.top.indices], images)
        return TopKActivations(top, self.distinct)


@dataclass(frozen=True)
class Firing:
    """How often the latents of a sparse autoencoder fire, that is, have a code above 0."""

    images: Int[Tensor, " units"]  # on at least one token
    # Each image's share of such tokens, added up. Float64 holds these sums exactly, so that parts
    # of a probe can be merged in any order.
    shares: Float[Tensor, " units"]
    total: int  # images, all in all

    @classmethod
    def of(cls, shares: Float[Tensor, "images units"]) -> Firing:
        return cls((shares > 0).sum(0).cpu(), shares.double().sum(0).cpu(), len(shares))

    def merged(self, other: Firing) -> Firing:
        """Merge with another part of the same probe."""
        images, shares = self.images + other.images, self.shares + other.shares
        return Firing(images, shares, self.total + other.total)

    @property
    def density(self) -> Float[Tensor, " units"]:
        """The share of all tokens on which a latent fires."""
        return self.shares / self.total


def without_silent(top: TopActivations) -> TopActivations:
    """Replace images on which a latent is silent: repeat those on which it fires, in order.

    Scores of latents that fire on fewer images are thus on the scale of the others, as if their
    images occurred several times. Dead latents repeat an arbitrary image.
    """
    fires = (top.values > 0).sum(0).clamp(min=1)
    ranks = torch.arange(len(top.values), device=fires.device)[:, None] % fires
    return replace(top, values=top.values.gather(0, ranks), indices=top.indices.gather(0, ranks))


Activations = Tensor | TopKActivations


def units_of(activations: Activations) -> int:
    values = activations.top.values if isinstance(activations, TopKActivations) else activations
    return int(values.shape[1])


def for_scoring(activations: Activations, units: Bool[Tensor, " units"]) -> Tensor | TopActivations:
    """Return the selected units' activations as the similarity functions take them."""
    if isinstance(activations, TopKActivations):
        return activations.top if bool(units.all()) else activations.select(units).top
    return activations if bool(units.all()) else activations[:, units]


def top_of(activations: Activations, k: int) -> TopActivations:
    """Return the top `k` images per unit, or fewer where fewer are available."""
    if not isinstance(activations, TopKActivations):
        return top_images(activations, min(k, len(activations)))
    top = activations.top
    return TopActivations(top.values[:k], top.indices[:k], top.images)


def dead_units(activations: Activations) -> Bool[Tensor, " units"]:
    """Return a mask of the units whose activation never varies."""
    if isinstance(activations, TopKActivations):
        return activations.count == 1
    return activations.amax(0) == activations.amin(0)


def few_distinct(activations: Activations, top: TopActivations | None) -> Bool[Tensor, " units"]:
    """Mask units with fewer distinct activations than top images (none without `top`)."""
    if top is None:
        return torch.zeros(units_of(activations), dtype=torch.bool)
    if isinstance(activations, TopKActivations):
        return activations.count < len(top.values)
    # Most units have distinct top activations and need no sort of all their activations.
    suspects = (top.values[1:] == top.values[:-1]).any(0).nonzero()[:, 0]
    ordered = activations[:, suspects].sort(0).values
    distinct = 1 + (ordered[1:] != ordered[:-1]).sum(0)
    few = torch.zeros(activations.shape[1], dtype=torch.bool, device=activations.device)
    few[suspects] = distinct < len(top.values)
    return few


def _distinct(values: Float[Tensor, "rows units"], k: int) -> Float[Tensor, "k units"]:
    """Return up to k distinct values per column, NaN-padded; infinities if there are k."""
    ordered = values.T.contiguous().sort(1).values  # rows of neighbouring numbers sort faster
    repeated = torch.zeros_like(ordered, dtype=torch.bool)
    repeated[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    ordered = ordered.masked_fill_(repeated, torch.nan).sort(1).values[:, :k]
    out = torch.full((k, values.shape[1]), torch.nan, dtype=torch.float32, device=values.device)
    out[: ordered.shape[1]] = ordered.T
    out[:, ~out[-1].isnan()] = torch.inf
    return out
