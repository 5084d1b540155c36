"""Fit weighted sums of concepts to all units of a layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clipdissect.method.linear_sums.elastic_net import Penalty, candidates, elastic_net
from clipdissect.method.linear_sums.greedy import NONE, Fold, Search, greedy_sums
from clipdissect.method.linear_sums.moments import ConceptMoments, Rows, UnitMoments, Values


@dataclass(frozen=True)
class FittedSums:
    """A unit is about `sum_j weights_j * value(concepts_j) + bias`.

    Args:
        concepts: indices in the order of choice, -1 after the last, and everywhere for units that
            are constant on the training images.
        weights: for values of concepts from 0 to 1, on the scale of the activations; 0 after the
            last concept.
        correlation: of the sum and the unit on the validation images; NaN if the unit is constant
            there.
        first: of the first concept alone.
        violation: of the elastic net's optimality conditions.
    """

    concepts: Int[Tensor, "units length"]
    weights: Float[Tensor, "units length"]
    bias: Float[Tensor, " units"]
    correlation: Float[Tensor, " units"]
    first: Float[Tensor, " units"]
    violation: Float[Tensor, " units"]

    @property
    def described(self) -> Bool[Tensor, " units"]:
        return self.concepts[:, 0] != NONE


class SumFitter:
    """Fits sums of the same concepts to several layers."""

    def __init__(
        self,
        values: Float[Tensor, "images concepts"],
        train: Rows,
        validation: Rows,
        penalty: Penalty,
        search: Search,
    ) -> None:
        """Compute the concepts' moments; none of them may be constant on the training images."""
        self.train = ConceptMoments.of(values, train)
        self.validation = ConceptMoments.of(values, validation, self.train.std)
        self.penalty, self.search = penalty, search

    def fit(self, activations: Values, order: Rows | None = None) -> FittedSums:
        """Fit sums to units; by `order`, image i of the concepts is image `order[i]` of units."""
        train = UnitMoments.of(self.train, activations, order)
        validation = UnitMoments.of(self.validation, activations, order)
        solved = elastic_net(self.train.gram, train.cross, self.penalty)
        ranked = (self.train.gram, train.cross, solved.weights, self.penalty)
        first = candidates(*ranked, self.search.candidates)
        folds = Fold(self.train.gram, train.cross), Fold(self.validation.gram, validation.cross)
        sums = greedy_sums(first, *folds, self.search)
        undefined = train.constant | validation.constant
        concepts = sums.concepts.masked_fill(train.constant[:, None], NONE)
        chosen = concepts.clamp(min=0)  # their weight is 0 where there is no concept
        weights = sums.weights * train.std[:, None] / self.train.std[chosen]
        weights = weights.masked_fill(concepts == NONE, 0.0)
        return FittedSums(
            concepts,
            weights,
            train.mean - (weights * self.train.mean[chosen]).sum(1),
            sums.correlation.masked_fill(undefined, torch.nan),
            sums.first.masked_fill(undefined, torch.nan),
            solved.violation,
        )
