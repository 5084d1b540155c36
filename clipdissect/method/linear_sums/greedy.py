"""Greedy choice of few concepts per unit, by least squares and validation correlation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clipdissect.method.linear_sums.moments import ConceptMoments, UnitMoments

_UNITS = 1024  # at a time
_GUARD = 1e-9  # added to variances of 1, for concepts that are sums of others
NONE = -1


@dataclass(frozen=True)
class Search:
    """Parameters of the search; see `Linear`."""

    length: int
    width: int
    tolerance: float

    @property
    def candidates(self) -> int:
        """How many of a unit's candidates it can reach: at most `width` new ones per step."""
        return self.length * self.width


@dataclass(frozen=True)
class Sums:
    """A weighted sum of concepts per unit, in the order of choice.

    Args:
        concepts: int64, `NONE` after the last.
        weights: of the standardised concepts for the standardised unit, float64.
        correlation: of the sum and the unit on the validation images.
        first: of the first concept alone.
    """

    concepts: Int[Tensor, "units length"]
    weights: Float[Tensor, "units length"]
    correlation: Float[Tensor, " units"]
    first: Float[Tensor, " units"]


@dataclass(frozen=True)
class Fold:
    """Moments of concepts and units on one part of the images."""

    gram: Float[Tensor, "concepts concepts"]
    cross: Float[Tensor, "concepts units"]

    @classmethod
    def of(cls, concepts: ConceptMoments, units: UnitMoments) -> Fold:
        return cls(concepts.gram, units.cross)

    def take(self, units: slice) -> Fold:
        return Fold(self.gram, self.cross[:, units])


def greedy_sums(
    order: Int[Tensor, "units candidates"], train: Fold, validation: Fold, search: Search
) -> Sums:
    """Choose concepts one by one, each the one with the best validation correlation.

    Each step refits the sum with each of the first `width` unused candidates, and drops those
    that gain less than `tolerance` for good, except in the first step.
    """
    parts = []
    for start in range(0, len(order), _UNITS):
        some = slice(start, start + _UNITS)
        block = _Block(order[some], train.take(some), validation.take(some), search)
        parts.append(block.sums())
    fields = ([getattr(part, name) for part in parts] for name in Sums.__dataclass_fields__)
    return Sums(*(torch.cat(field) for field in fields))


class _Block:
    """The search for some units at once."""

    def __init__(
        self,
        order: Int[Tensor, "units candidates"],
        train: Fold,
        validation: Fold,
        search: Search,
    ) -> None:
        self.order, self.train, self.validation, self.search = order, train, validation, search
        units, device = len(order), order.device
        self.used = torch.zeros(order.shape, dtype=torch.bool, device=device)
        self.concepts = torch.full((units, search.length), NONE, device=device)
        self.weights = train.cross.new_zeros(units, search.length)
        self.correlation = train.cross.new_zeros(units)

    def sums(self) -> Sums:
        units = torch.arange(len(self.order), device=self.order.device)
        first = self.correlation
        for step in range(min(self.search.length, self.order.shape[1])):
            units = units[self._extend(units, step)]
            if step == 0:
                first = self.correlation.clone()
            if not len(units):
                break
        return Sums(self.concepts, self.weights, self.correlation, first)

    def _extend(self, units: Int[Tensor, " some"], step: int) -> Bool[Tensor, " some"]:
        """Add a concept to each unit's sum, where one gains enough; return where."""
        places, is_new = self._first_unused(units)
        tried = self.order[units[:, None], places]
        earlier = self.concepts[units, None, :step].expand(-1, tried.shape[1], -1)
        sets = torch.cat([earlier, tried[:, :, None]], 2)
        weights, correlation = self._refit(units, sets)
        correlation.masked_fill_(~is_new, -torch.inf)
        best, choice = correlation.max(1)
        gains = correlation - self.correlation[units, None] >= self.search.tolerance
        grows = is_new.any(1) if step == 0 else gains.any(1)
        drop = is_new & ~gains & (step > 0)
        row = torch.arange(len(units), device=units.device)
        drop[row, choice] |= grows
        self.used[units[:, None], places] |= drop
        unit, row, choice = units[grows], row[grows], choice[grows]
        self.concepts[unit, step] = tried[row, choice]
        self.weights[unit, : step + 1] = weights[row, choice]
        self.correlation[unit] = best[grows]
        return grows

    def _first_unused(
        self, units: Int[Tensor, " some"]
    ) -> tuple[Int[Tensor, "some width"], Bool[Tensor, "some width"]]:
        """Return the places of the next candidates in `order`, and which are there at all."""
        count = self.order.shape[1]
        places = torch.arange(count, device=units.device) + count * self.used[units]
        width = min(self.search.width, count)
        first = places.topk(width, 1, largest=False, sorted=True).values
        return first % count, first < count

    def _refit(
        self, units: Int[Tensor, " some"], sets: Int[Tensor, "some width size"]
    ) -> tuple[Float[Tensor, "some width size"], Float[Tensor, "some width"]]:
        """Return least-squares weights on the training images, and validation correlations."""
        gram, cross = _gather(self.train, units, sets)
        gram.diagonal(dim1=-2, dim2=-1).add_(_GUARD)
        weights = torch.linalg.solve(gram, cross)
        gram, cross = _gather(self.validation, units, sets)
        predicted = (weights[..., None, :] @ gram @ weights[..., None])[..., 0, 0]
        covariance = (weights * cross).sum(-1)
        varies = predicted > _GUARD
        std = predicted.where(varies, torch.ones_like(predicted)).sqrt()
        return weights, torch.where(varies, covariance / std, torch.zeros_like(std))


def _gather(
    fold: Fold, units: Int[Tensor, " some"], sets: Int[Tensor, "some width size"]
) -> tuple[Float[Tensor, "some width size size"], Float[Tensor, "some width size"]]:
    gram = fold.gram[sets[..., :, None], sets[..., None, :]]
    return gram, fold.cross[sets, units[:, None, None]]
