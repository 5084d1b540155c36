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

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from clipdissect.errors import DissectError, unknown
from clipdissect.scores.base import Pairs, Scores
from clipdissect.scores.statistics import (
    ConceptColumns,
    Matrix,
    RankedColumns,
    Statistics,
    sampled_positions,
)
from clipdissect.similarity import checks

ALPHA = 0.005  # share of images on which a unit counts as active, Network Dissection's
_NUMBERS_AT_ONCE = 12_000_000  # activations per block of units

Compute = Callable[[Statistics], Matrix]


@dataclass(frozen=True)
class Metric:
    """A metric with its range, None if unbounded, and whether it needs binary activations."""

    compute: Compute
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
    images, units = activations.shape
    positions = sampled_positions(images, units, seed)
    return _computed(activations, concepts, chosen, alpha, lam, positions)


def _computed(
    activations: Float[Tensor, "images units"],
    concepts: Shaped[Tensor, "images concepts"],
    chosen: Sequence[str],
    alpha: float,
    lam: float,
    positions: Int[Tensor, "units drawn"],
) -> dict[str, Float[Tensor, "units concepts"]]:
    a = activations.detach().float().cpu()
    columns = ConceptColumns.of(concepts.detach().cpu())
    images, units = a.shape
    out = {name: torch.empty(units, concepts.shape[1]) for name in chosen}
    step = max(1, _NUMBERS_AT_ONCE // images)
    for start in range(0, units, step):
        block = slice(start, start + step)
        ranked = RankedColumns.of(a[:, block], alpha)
        statistics = Statistics(ranked, columns, lam, positions[block])
        for name, values in out.items():
            computed = METRICS[name].compute(statistics)
            values[block] = computed.masked_fill(~computed.isfinite(), math.nan)
    return out


def pair_metrics(
    activations: Float[Tensor, "images units"],
    concepts: Shaped[Tensor, "images concepts"],
    pairs: Pairs,
    names: Sequence[str] | None = None,
    alpha: float = ALPHA,
) -> Scores:
    """Return `label_metrics` of some pairs only; `pairs.texts` are columns of the concepts.

    A unit's scores don't depend on the other units of the pairs.
    """
    if not len(pairs):
        return {name: np.empty(0) for name in names or METRICS}
    units, unit_rows = np.unique(pairs.units, return_inverse=True)
    texts, text_columns = np.unique(pairs.texts, return_inverse=True)
    parts = activations[:, units], concepts[:, texts]
    chosen = _checked(*parts, names, alpha)
    positions = sampled_positions(len(activations), int(units[-1]) + 1, seed=0)[units]
    metrics = _computed(*parts, chosen, alpha, 1.0, positions)
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
    if not s.c.soft:
        return _balanced(s)
    return _rank_sum_auc(s.of_concepts.ranks, s.active, s.images)


def _inverse_auc(s: Statistics) -> Matrix:
    return _rank_sum_auc(s.sums.ranks, s.present, s.images)


def _rank_sum_auc(ranks: Matrix, positive: Tensor, images: int) -> Matrix:
    return (ranks - positive * (positive - 1) / 2) / (positive * (images - positive))


def _auprc(s: Statistics) -> Matrix:
    """Return the average precision of c for finding active images (no interpolation)."""
    if s.c.soft:
        return s.of_concepts.precision / s.active
    found = s.both / s.active
    precise = (s.both / s.present).nan_to_num(0.0)
    return found * precise + (1 - found) * s.active / s.images


def _correlation(s: Statistics) -> Matrix:
    covariance = s.products / s.images - s.a.mean[:, None] * s.c.mean
    return covariance / (s.a.variance[:, None] * s.c.variance).sqrt()


def _cosine(s: Statistics) -> Matrix:
    return s.products / (s.a.norm[:, None] * s.c.norm)


def _spearman(s: Statistics) -> Matrix:
    return s.rank_covariance / (s.a.rank_variance[:, None] * s.c.rank_variance).sqrt()


def _spearman_random_ties(s: Statistics) -> Matrix:
    """Return Spearman's coefficient in expectation over random orders of ties."""
    return s.rank_covariance / ((s.images**2 - 1) / 12)


def _correlation_top_random(s: Statistics) -> Matrix:
    return _pearson(*s.drawn)


def _spearman_top_random(s: Statistics) -> Matrix:
    return _pearson(*s.drawn_ranks)


def _pearson(a: Float[Tensor, "units drawn"], c: Float[Tensor, "units drawn concepts"]) -> Matrix:
    constant = c.amin(1) == c.amax(1)
    a, c = a - a.mean(1, keepdim=True), c - c.mean(1, keepdim=True)
    squares = c.square().sum(1).masked_fill(constant, 0.0)
    return torch.einsum("un,unc->uc", a, c) / (a.square().sum(1)[:, None] * squares).sqrt()


def _wpmi(s: Statistics) -> Matrix:
    return s.mean_logarithm - s.lam * s.c.mean.log()


def _mad(s: Statistics) -> Matrix:
    total = s.a.mean[:, None] * s.images
    absent = s.images - s.present
    return s.sums.values / s.present - (total - s.sums.values) / absent


def _harmonic(first: Compute, second: Compute) -> Compute:
    """Return the harmonic mean of two metrics; 0 if both are."""

    def mean(s: Statistics) -> Matrix:
        a, b = first(s), second(s)
        return torch.where(a + b == 0, 0.0, 2 * a * b / (a + b))

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
