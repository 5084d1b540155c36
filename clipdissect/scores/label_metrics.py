"""Metrics of units and labels of images: those that NeuronEval (ICML 2025) compares, and variants.

Its eighteen single metrics are recall, precision, F1, IoU, accuracy, (inverse) balanced accuracy,
(inverse) AUC, correlation, Spearman correlation, both of top and random images, cosine, WPMI, mean
activation difference and (inverse) AUPRC; its appendix has six harmonic means of two of them. All
are here. `spearman` is the usual coefficient; the published one is `spearman_random_ties`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from clipdissect.errors import DissectError, unknown
from clipdissect.scores.base import Pairs, Scores
from clipdissect.scores.image_labels import ImageLabels
from clipdissect.scores.kernels import RankedSums, ranked_sums
from clipdissect.similarity import checks

ALPHA = 0.005  # share of images on which a unit counts as active, Network Dissection's
TOP_SHARE = 0.002  # of the images that `*_top_random` draw the top ones from
DRAWN = 25  # top images, and as many random ones
_LEAST = 1e-8  # concept values are clamped to it before a logarithm
_NUMBERS_AT_ONCE = 12_000_000  # activations per block of units

Matrix = Float[np.ndarray, "units concepts"]


@dataclass(frozen=True)
class Metric:
    """A metric with its range, None if unbounded, and whether it needs binary activations."""

    compute: Callable[[Statistics], Matrix]
    bounds: tuple[float, float] | None = (0.0, 1.0)
    uses_alpha: bool = True


def label_metrics(
    activations: Float[Tensor, "images units"],
    concepts: Shaped[Tensor, "images concepts"],
    names: Sequence[str] | None = None,
    alpha: float = ALPHA,
    lam: float = 1.0,
    seed: int = 0,
) -> dict[str, Float[Tensor, "units concepts"]]:
    """Return metrics of all units and concepts, float32, NaN where undefined.

    A unit is active on its `ceil(alpha * images)` largest activations and those equal to the
    smallest of them; a concept is present where it is at least 0.5. As published, recall is the
    share of *active* images with the concept and precision the share of images with the concept
    that are active: the unit predicts the concept in the first, the reverse in the second.

    Args:
        concepts: 0 to 1, or bool; with 0 and 1 only, everything is counted in one pass.
        names: of `METRICS`; all by default.
        alpha: share of active images, above 0 and at most 1.
        lam: weight of `log mean(c)` in `wpmi`.
        seed: of the images drawn for `*_top_random`.

    Raises:
        DissectError: an unknown name, a wrong size, or a value out of its range.
    """
    chosen = _checked(activations, concepts, names, alpha)
    a = activations.detach().float().cpu()
    columns = ConceptColumns.of(concepts.detach().cpu())
    images, units = a.shape
    positions = sampled_positions(images, units, seed)
    shape = units, concepts.shape[1]
    out = {name: np.empty(shape, dtype=np.float32) for name in chosen}
    step = max(1, _NUMBERS_AT_ONCE // images)
    for start in range(0, units, step):
        block = slice(start, start + step)
        statistics = Statistics(RankedUnits.of(a[:, block], alpha), columns, lam, positions[block])
        with np.errstate(divide="ignore", invalid="ignore"):
            for name, values in out.items():
                computed = METRICS[name].compute(statistics)
                values[block] = np.where(np.isfinite(computed), computed, np.nan)
    return {name: torch.from_numpy(values) for name, values in out.items()}


def pair_metrics(
    activations: Float[Tensor, "images units"],
    labels: ImageLabels,
    pairs: Pairs,
    names: Sequence[str] | None = None,
    alpha: float = ALPHA,
) -> Scores:
    """Return `label_metrics` of some pairs only; `pairs.texts` are columns of the labels."""
    if not len(pairs):
        return {name: np.empty(0) for name in names or METRICS}
    units, unit_rows = np.unique(pairs.units, return_inverse=True)
    texts, text_columns = np.unique(pairs.texts, return_inverse=True)
    metrics = label_metrics(activations[:, units], labels.matrix[:, texts], names, alpha)
    return {
        name: values.numpy().astype(np.float64)[unit_rows, text_columns]
        for name, values in metrics.items()
    }


def _checked(
    activations: Tensor, concepts: Tensor, names: Sequence[str] | None, alpha: float
) -> list[str]:
    checks.matrix("activations", activations, "images", "units")
    checks.matrix("concepts", concepts.float(), "images", "concepts")
    checks.same("images", len(activations), "activations", len(concepts), "concepts")
    checks.number("alpha", alpha, above=0, most=1)
    low, high = (float(extreme) for extreme in torch.aminmax(concepts.float()))
    if low < 0 or high > 1:
        raise DissectError(
            f"concepts are between {low:g} and {high:g}; they must be between 0 and 1 (labels, or "
            "a sigmoid of similarities)"
        )
    for name in names or ():
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    return list(dict.fromkeys(names or METRICS))


def sampled_positions(images: int, units: int, seed: int) -> Int[np.ndarray, "units drawn"]:
    """Draw positions in a unit's ranking: up to 25 of the top 0.2 %, and up to 25 of the rest."""
    generator = np.random.default_rng(seed)
    top = min(images, max(DRAWN, math.ceil(TOP_SHARE * images)))
    from_top, rest = min(DRAWN, top), min(DRAWN, images - top)
    drawn = [
        np.concatenate(
            [
                generator.choice(top, from_top, replace=False),
                top + generator.choice(images - top, rest, replace=False),
            ]
            if rest
            else [generator.choice(top, from_top, replace=False)]
        )
        for _ in range(units)
    ]
    return np.stack(drawn)


class Entries(NamedTuple):
    """A binary matrix by rows: row i has ones in `columns[rows[i]:rows[i + 1]]`."""

    rows: Int[np.ndarray, " rows_and_one"]
    columns: Int[np.ndarray, " entries"]
    width: int

    @classmethod
    def of(cls, matrix: Bool[np.ndarray, "rows columns"]) -> Entries:
        rows = np.concatenate([[0], np.cumsum(matrix.sum(1))]).astype(np.int64)
        return cls(rows, np.nonzero(matrix)[1].astype(np.int32), matrix.shape[1])


@dataclass(frozen=True)
class RankedUnits:
    """Columns of numbers per image, each ranked from its largest down; float64 moments."""

    raw: Float[np.ndarray, "images units"]
    order: Int[np.ndarray, "units images"]
    values: Float[np.ndarray, "units images"]  # in that order
    active: Int[np.ndarray, " units"]  # leading images that are active

    @classmethod
    def of(cls, raw: Float[Tensor, "images units"], alpha: float) -> RankedUnits:
        values, order = torch.sort(raw.T.contiguous(), dim=1, descending=True, stable=True)
        # Rounding first: 0.0002 * 5000 is above 1 in floating point.
        count = min(len(raw), max(1, math.ceil(round(alpha * len(raw), 6))))
        active = (values >= values[:, count - 1 : count]).sum(1)
        return cls(raw.numpy(), order.int().numpy(), values.numpy(), active.numpy())

    @cached_property
    def mean(self) -> Float[np.ndarray, " units"]:
        return self.values.mean(1, dtype=np.float64)

    @cached_property
    def variance(self) -> Float[np.ndarray, " units"]:
        """Population variance; exactly 0 for a constant."""
        squares = np.square(self.values - self.mean[:, None], dtype=np.float64)
        return np.where(self.values[:, 0] == self.values[:, -1], 0.0, squares.mean(1))

    @cached_property
    def norm(self) -> Float[np.ndarray, " units"]:
        return np.sqrt(np.square(self.values, dtype=np.float64).sum(1))

    @cached_property
    def rank_variance(self) -> Float[np.ndarray, " units"]:
        """Variance of the ranks: (n^2 - 1) / 12, less that of ranks within ties."""
        images = self.values.shape[1]
        steps = self.values[:, 1:] != self.values[:, :-1]
        ties = [
            np.diff(np.concatenate([[0], np.flatnonzero(row) + 1, [images]])).astype(np.float64)
            for row in steps
        ]
        within = np.array([(size**3 - size).sum() for size in ties])
        return (images**2 - 1 - within / images) / 12

    @cached_property
    def ranks(self) -> Float[np.ndarray, "images units"]:
        """Mean ranks from 1 for the smallest, less their mean."""
        from scipy.stats import rankdata

        return rankdata(self.raw, axis=0) - (len(self.raw) + 1) / 2

    @cached_property
    def mask(self) -> Bool[np.ndarray, "images units"]:
        """Active images."""
        units = np.arange(len(self.values))
        return self.raw >= self.values[units, self.active - 1]


@dataclass(frozen=True)
class ConceptColumns:
    """The concepts of all images: where each is present, and its values unless 0 and 1."""

    present: Bool[np.ndarray, "images concepts"]
    soft: RankedUnits | None

    @classmethod
    def of(cls, concepts: Shaped[Tensor, "images concepts"]) -> ConceptColumns:
        if concepts.dtype == torch.bool:
            return cls(concepts.numpy(), None)
        present = concepts >= 0.5
        is_binary = bool((concepts == present).all())
        return cls(present.numpy(), None if is_binary else RankedUnits.of(concepts.float(), 1.0))

    @cached_property
    def entries(self) -> Entries:
        return Entries.of(self.present)

    @cached_property
    def size(self) -> Float[np.ndarray, " concepts"]:
        return self.present.sum(0, dtype=np.float64)

    @cached_property
    def mean(self) -> Float[np.ndarray, " concepts"]:
        return self.soft.mean if self.soft else self.size / len(self.present)

    @cached_property
    def variance(self) -> Float[np.ndarray, " concepts"]:
        return self.soft.variance if self.soft else self.mean * (1 - self.mean)

    @cached_property
    def norm(self) -> Float[np.ndarray, " concepts"]:
        return self.soft.norm if self.soft else np.sqrt(self.size)

    @cached_property
    def logarithms(self) -> Float[np.ndarray, "images concepts"]:
        assert self.soft is not None
        return np.log(np.maximum(self.soft.raw.astype(np.float64), _LEAST))


class Statistics:
    """What the metrics of a block of units and all concepts are made of, each computed once.

    With binary concepts every number follows from `RankedSums`; else products of matrices and a
    second pass, over each concept's ranking, are needed.
    """

    def __init__(
        self,
        units: RankedUnits,
        concepts: ConceptColumns,
        lam: float,
        positions: Int[np.ndarray, "units drawn"],
    ) -> None:
        self.a, self.c, self.lam, self.positions = units, concepts, lam, positions
        self.images = len(concepts.present)
        self.active = units.active[:, None].astype(np.float64)  # |A|
        self.present = concepts.size[None]  # |C|

    @cached_property
    def sums(self) -> RankedSums:
        a, entries = self.a, self.c.entries
        return ranked_sums(
            a.order, a.values, a.active, entries.rows, entries.columns, entries.width
        )

    @cached_property
    def both(self) -> Matrix:
        """Images that are active and have the concept."""
        return self.sums.active

    @property
    def neither(self) -> Matrix:
        return self.images - self.active - self.present + self.both

    @cached_property
    def of_concepts(self) -> RankedSums:
        """Sums of the ranked concepts over the units' active images, `[units, concepts]`."""
        soft, active = self.c.soft, Entries.of(self.a.mask)
        assert soft is not None
        everything = soft.active, active.rows, active.columns, active.width
        return RankedSums(*(s.T for s in ranked_sums(soft.order, soft.values, *everything)))

    @cached_property
    def products(self) -> Matrix:
        """Sum of a * c."""
        if self.c.soft is None:
            return self.sums.values
        return self.a.raw.T.astype(np.float64) @ self.c.soft.raw.astype(np.float64)

    @cached_property
    def rank_covariance(self) -> Matrix:
        """Covariance of the ranks of a and c; ties share their mean rank."""
        if self.c.soft is None:
            # The mean ranks of present and absent images differ by half the number of images.
            centred = self.sums.ranks - self.present * (self.images - 1) / 2
            return centred / 2
        return self.a.ranks.T @ self.c.soft.ranks / self.images

    @cached_property
    def concept_rank_variance(self) -> Float[np.ndarray, " concepts"]:
        if self.c.soft is None:
            return self.images**2 / 4 * self.c.variance
        return self.c.soft.rank_variance

    @cached_property
    def mean_logarithm(self) -> Matrix:
        """Mean of log(c) over active images."""
        if self.c.soft is None:
            return (1 - self.both / self.active) * math.log(_LEAST)
        return self.a.mask.T.astype(np.float64) @ self.c.logarithms / self.active

    @cached_property
    def drawn(
        self,
    ) -> tuple[Float[np.ndarray, "units drawn"], Float[np.ndarray, "units drawn concepts"]]:
        """Activations and concepts of the top and random images."""
        images = np.take_along_axis(self.a.order, self.positions, axis=1)
        matrix = self.c.present if self.c.soft is None else self.c.soft.raw
        activations = np.take_along_axis(self.a.values, self.positions, axis=1)
        return activations.astype(np.float64), matrix[images].astype(np.float64)


def _f1(s: Statistics) -> Matrix:
    return 2 * s.both / (s.active + s.present)


def _iou(s: Statistics) -> Matrix:
    return s.both / (s.active + s.present - s.both)


def _balanced(s: Statistics) -> Matrix:
    return (s.both / s.active + s.neither / (s.images - s.active)) / 2


def _inverse_balanced(s: Statistics) -> Matrix:
    return (s.both / s.present + s.neither / (s.images - s.present)) / 2


def _auc(s: Statistics) -> Matrix:
    """Return the AUC of c for finding active images; ties count half.

    With binary c it is the balanced accuracy. The published code breaks ties by noise of 1e-7 in
    float32, where 1 + 1e-7 is rounded: half of the ties stay and are then broken by position.
    """
    if s.c.soft is None:
        return _balanced(s)
    return _rank_sum_auc(s.of_concepts.ranks, s.active, s.images)


def _inverse_auc(s: Statistics) -> Matrix:
    return _rank_sum_auc(s.sums.ranks, s.present, s.images)


def _rank_sum_auc(ranks: Matrix, positive: np.ndarray, images: int) -> Matrix:
    return (ranks - positive * (positive - 1) / 2) / (positive * (images - positive))


def _auprc(s: Statistics) -> Matrix:
    """Return the average precision of c for finding active images (no interpolation)."""
    if s.c.soft is not None:
        return s.of_concepts.precision / s.active
    found = s.both / s.active
    precise = np.where(s.present > 0, s.both / s.present, 0.0)
    return found * precise + (1 - found) * s.active / s.images


def _correlation(s: Statistics) -> Matrix:
    covariance = s.products / s.images - s.a.mean[:, None] * s.c.mean
    return covariance / np.sqrt(s.a.variance[:, None] * s.c.variance)


def _cosine(s: Statistics) -> Matrix:
    return s.products / (s.a.norm[:, None] * s.c.norm)


def _spearman(s: Statistics) -> Matrix:
    return s.rank_covariance / np.sqrt(s.a.rank_variance[:, None] * s.concept_rank_variance)


def _spearman_random_ties(s: Statistics) -> Matrix:
    """Return Spearman's coefficient in expectation over random orders of ties."""
    return s.rank_covariance / ((s.images**2 - 1) / 12)


def _correlation_top_random(s: Statistics) -> Matrix:
    return _pearson(*s.drawn)


def _spearman_top_random(s: Statistics) -> Matrix:
    from scipy.stats import rankdata

    a, c = s.drawn
    # Ranks of a binary column are a linear function of it.
    return _pearson(rankdata(a, axis=1), c if s.c.soft is None else rankdata(c, axis=1))


def _pearson(
    a: Float[np.ndarray, "units drawn"], c: Float[np.ndarray, "units drawn concepts"]
) -> Matrix:
    a = a - a.mean(1, keepdims=True)
    constant = c.min(1) == c.max(1)
    c = c - c.mean(1, keepdims=True)
    squares = np.where(constant, 0.0, np.einsum("unc,unc->uc", c, c))
    return np.einsum("un,unc->uc", a, c) / np.sqrt(np.square(a).sum(1)[:, None] * squares)


def _wpmi(s: Statistics) -> Matrix:
    return s.mean_logarithm - s.lam * np.log(s.c.mean)


def _mad(s: Statistics) -> Matrix:
    total = s.a.mean[:, None] * s.images
    absent = s.images - s.present
    return s.sums.values / s.present - (total - s.sums.values) / absent


def _harmonic(
    first: Callable[[Statistics], Matrix], second: Callable[[Statistics], Matrix]
) -> Callable[[Statistics], Matrix]:
    def mean(s: Statistics) -> Matrix:
        a, b = first(s), second(s)
        return np.where(a + b == 0, 0.0, 2 * a * b / (a + b))

    return mean


def _recall(s: Statistics) -> Matrix:
    return s.both / s.active


def _precision(s: Statistics) -> Matrix:
    return s.both / s.present


_SIGNED = (-1.0, 1.0)
METRICS: dict[str, Metric] = {
    "recall": Metric(_recall),
    "precision": Metric(_precision),
    "f1": Metric(_f1),
    "iou": Metric(_iou),
    "accuracy": Metric(lambda s: (s.both + s.neither) / s.images),
    "balanced_accuracy": Metric(_balanced),
    "inverse_balanced_accuracy": Metric(_inverse_balanced),
    "auc": Metric(_auc),
    "inverse_auc": Metric(_inverse_auc, uses_alpha=False),
    "correlation": Metric(_correlation, _SIGNED, uses_alpha=False),
    "correlation_top_random": Metric(_correlation_top_random, _SIGNED, uses_alpha=False),
    "spearman": Metric(_spearman, _SIGNED, uses_alpha=False),
    "spearman_random_ties": Metric(_spearman_random_ties, _SIGNED, uses_alpha=False),
    "spearman_top_random": Metric(_spearman_top_random, _SIGNED, uses_alpha=False),
    "cosine": Metric(_cosine, _SIGNED, uses_alpha=False),
    "wpmi": Metric(_wpmi, None),
    "mad": Metric(_mad, None, uses_alpha=False),
    "auprc": Metric(_auprc),
    "inverse_auprc": Metric(lambda s: s.sums.precision / s.present, uses_alpha=False),
    "combined_auc": Metric(_harmonic(_auc, _inverse_auc)),
    "combined_balanced_accuracy": Metric(_harmonic(_balanced, _inverse_balanced)),
    "recall_auc": Metric(_harmonic(_recall, _auc)),
    "recall_inverse_auc": Metric(_harmonic(_recall, _inverse_auc)),
    "precision_balanced_accuracy": Metric(_harmonic(_precision, _balanced)),
    "precision_inverse_balanced_accuracy": Metric(_harmonic(_precision, _inverse_balanced)),
}
