"""Second moments of concepts and units over a part of the images: all that the fits need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

TOP_IMAGES = 5
LEAST_MEAN, LEAST_STD = 0.5, 1e-5  # of the values of a concept that can be used
_ROWS = 4096  # images at a time, in float64
_COLUMNS = 1024  # concepts or units at a time

Rows = Int[Tensor, " _"]  # parts of the images differ in length
Values = Shaped[Tensor, "images columns"]


@dataclass(frozen=True)
class ConceptMoments:
    """Concepts divided by `std`, over the images `rows`.

    `gram` is their covariance `[concepts, concepts]`, float64: of training images, on which the
    standard deviations are computed, the matrix of correlations.
    """

    values: Float[Tensor, "images concepts"]  # of all images
    rows: Rows
    mean: Float[Tensor, " concepts"]
    std: Float[Tensor, " concepts"]
    gram: Float[Tensor, "concepts concepts"]

    @classmethod
    def of(
        cls,
        values: Float[Tensor, "images concepts"],
        rows: Rows,
        std: Float[Tensor, " concepts"] | None = None,
    ) -> ConceptMoments:
        """Compute the moments, with the standard deviations of these images unless given."""
        mean = _mean(values, rows)
        covariance = mean.new_zeros(len(mean), len(mean))
        for part in _parts(values, rows):
            part -= mean
            covariance.addmm_(part.T, part)
        covariance /= len(rows)
        std = covariance.diagonal().sqrt() if std is None else std
        return cls(values, rows, mean, std, covariance / std / std[:, None])


@dataclass(frozen=True)
class UnitMoments:
    """Units over the images of `ConceptMoments`, standardised on these.

    `cross` is the covariance of concepts, as divided there, and units; 0 for a unit that is
    `constant` on the images, float64.
    """

    mean: Float[Tensor, " units"]
    std: Float[Tensor, " units"]
    cross: Float[Tensor, "concepts units"]
    constant: Bool[Tensor, " units"]

    @classmethod
    def of(
        cls, concepts: ConceptMoments, activations: Values, order: Rows | None = None
    ) -> UnitMoments:
        """Compute the moments; by `order`, image i of the concepts is image `order[i]` of units."""
        rows = concepts.rows if order is None else order[concepts.rows]
        mean = _mean(activations, rows)
        cross = mean.new_zeros(len(concepts.mean), len(mean))
        squares, low, high = mean * 0, mean + torch.inf, mean - torch.inf
        of_concepts = _parts(concepts.values, concepts.rows)
        for c, a in zip(of_concepts, _parts(activations, rows), strict=True):
            low, high = torch.minimum(low, a.amin(0)), torch.maximum(high, a.amax(0))
            a -= mean
            cross.addmm_((c - concepts.mean).T, a)
            squares += a.square().sum(0)
        constant = low == high
        std = (squares / len(rows)).sqrt().masked_fill_(constant, 1.0)
        cross /= len(rows) * concepts.std[:, None] * std
        return cls(mean, std, cross.masked_fill_(constant, 0.0), constant)


def usable(values: Float[Tensor, "images concepts"], rows: Rows) -> Bool[Tensor, " concepts"]:
    """Return which concepts the images show: the mean of the 5 largest values is at least 0.5.

    Concepts that hardly vary are left out, too.
    """
    kept = []
    for start in range(0, values.shape[1], _COLUMNS):
        some = values[:, start : start + _COLUMNS][rows]
        top = some.topk(min(TOP_IMAGES, len(some)), 0).values.sum(0) / TOP_IMAGES
        kept.append((top >= LEAST_MEAN) & (some.std(0) >= LEAST_STD))
    return torch.cat(kept)


def best_correlations(
    values: Float[Tensor, "images concepts"], activations: Values, rows: Rows
) -> Float[Tensor, " concepts"]:
    """Return each concept's largest correlation with any of the units, float32."""
    best = torch.full((values.shape[1],), -torch.inf, dtype=torch.float32, device=values.device)
    for first in range(0, activations.shape[1], _COLUMNS):
        a = _standardised(activations[:, first : first + _COLUMNS][rows])
        for start in range(0, values.shape[1], _COLUMNS):
            c = _standardised(values[:, start : start + _COLUMNS][rows])
            found = (c.T @ a).amax(1) / len(rows)
            best[start : start + _COLUMNS] = torch.maximum(best[start : start + len(found)], found)
    return best


def _standardised(values: Values) -> Float[Tensor, "images columns"]:
    centred = values.float() - values.float().mean(0)
    std = centred.square().mean(0).sqrt()
    return centred.div_(std.masked_fill_(std == 0, 1.0))


def _mean(values: Values, rows: Rows) -> Float[Tensor, " columns"]:
    total = torch.zeros(values.shape[1], dtype=torch.float64, device=values.device)
    for part in _parts(values, rows):
        total += part.sum(0)
    return total / len(rows)


def _parts(values: Values, rows: Rows) -> Iterator[Float[Tensor, "rows columns"]]:
    for start in range(0, len(rows), _ROWS):
        yield values[rows[start : start + _ROWS]].double()
