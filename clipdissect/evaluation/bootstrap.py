"""Confidence intervals over units, of metrics and of differences between two sets of labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import binomtest

from clipdissect.errors import DissectError
from clipdissect.evaluation.measures import Metric, metrics_of
from clipdissect.evaluation.units import Units
from clipdissect.utils.progress import progress

_BATCH_NUMBERS = 1_000_000
_NOTHING = {"low": None, "high": None, "reason": "there is nothing to count"}

Distributions = Mapping[str, Float[np.ndarray, " resamples"]]


@dataclass(frozen=True)
class Resampling:
    """Settings of the bootstrap intervals: `resamples` sets of units drawn with replacement.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """

    resamples: int = 10_000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 100:
            raise DissectError(f"evaluation.resamples is {self.resamples}; it must be at least 100")
        if not 0 < self.confidence < 1:
            raise DissectError(
                f"evaluation.confidence is {self.confidence}; it must be between 0 and 1"
            )
        if self.seed < 0:
            raise DissectError(f"evaluation.seed is {self.seed}; it must be at least 0")

    def rows(self, units: int, bar: bool = True) -> Iterator[Int[np.ndarray, "batch units"]]:
        """Yield the rows of the resampled sets, in batches of sets, with a progress bar."""
        # Rows depend only on the seed and the number of units, so two sets of labels of the same
        # units are resampled alike, and the interval of their difference is paired.
        generator = np.random.default_rng(self.seed)
        batch = max(1, _BATCH_NUMBERS // max(units, 1))
        starts = range(0, self.resamples, batch)
        for start in progress(starts, "resampled sets", "batch") if bar else starts:
            count = min(batch, self.resamples - start)
            yield generator.integers(0, units, size=(count, units), dtype=np.int32)


def distributions(units: Units, resampling: Resampling) -> Distributions:
    """Compute each metric in every resampled set; NaN where it is undefined."""
    metrics = metrics_of(units)
    columns = {c: units.table[c].to_numpy(dtype=float) for m in metrics for c in m.columns}
    parts: dict[str, list[Float[np.ndarray, " batch"]]] = {metric.name: [] for metric in metrics}
    for rows in resampling.rows(len(units.table)) if len(units.table) else ():
        drawn = {name: column[rows] for name, column in columns.items()}
        for metric in metrics:
            parts[metric.name].append(metric.of(*(drawn[c] for c in metric.columns)))
    return {name: np.concatenate(batches) for name, batches in parts.items() if batches}


def interval(drawn: Float[np.ndarray, " resamples"], confidence: float) -> dict[str, Any]:
    """Return a distribution's JSON-able percentile interval; None and a reason if undefined."""
    undefined = int(np.isnan(drawn).sum())
    if undefined or not len(drawn):
        reason = f"the metric is undefined in {undefined} of {len(drawn)} resampled sets of units"
        return {"low": None, "high": None, "reason": reason}
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return {"low": float(low), "high": float(high)}


def share_interval(right: int, of: int, confidence: float) -> dict[str, Any]:
    """Return the JSON-able Wilson interval (JASA 1927) of `right / of`; None if `of` is 0."""
    if not of:
        return dict(_NOTHING)
    wilson = binomtest(right, of).proportion_ci(confidence, method="wilson")
    return {"low": float(wilson.low), "high": float(wilson.high)}


def share_difference_interval(
    first: Float[np.ndarray, " units"], second: Float[np.ndarray, " units"], confidence: float
) -> dict[str, Any]:
    """Return the JSON-able interval of the difference of two shares of the same units.

    Source: Newcombe, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 1998, method 8.
    """
    if not len(first):
        return dict(_NOTHING)
    p, q = float(first.mean()), float(second.mean())
    p_ci, q_ci = (share_interval(int(x.sum()), len(x), confidence) for x in (first, second))
    spread = np.sqrt(p * (1 - p) * q * (1 - q))
    phi = float((first * second).mean() - p * q) / spread if spread else 0.0

    def distance(a: float, b: float) -> float:
        return float(np.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0)))

    return {
        "low": p - q - distance(p - p_ci["low"], q_ci["high"] - q),
        "high": p - q + distance(p_ci["high"] - p, q - q_ci["low"]),
    }


def intervals(units: Units, drawn: Distributions, confidence: float) -> dict[str, Any]:
    """Return the JSON-able intervals of a table's metrics, given its `distributions`."""
    # Shares (means of zeros and ones) get Wilson's score interval, and their paired differences
    # Newcombe's: a bootstrap of 0 right labels of 118 draws only zeros, so its interval would be
    # exactly 0. Other metrics get the bootstrap's percentile interval: it is defined for medians
    # and stays in the metric's range; over 1,000 units BCa differs by less than the digits shown.
    result = {}
    for metric in metrics_of(units):
        if metric.is_share:
            hits = units.table[metric.columns[0]]
            result[metric.name] = share_interval(int(hits.sum()), len(hits), confidence)
        elif metric.name in drawn:
            result[metric.name] = interval(drawn[metric.name], confidence)
    return result


def difference(
    first: Units,
    second: Units,
    resampling: Resampling,
    drawn: tuple[Distributions, Distributions] | None = None,
) -> dict[str, Any]:
    """Return the first minus the second, JSON-able with paired intervals, per shared metric.

    Each is over the units for which both sides have it, so that labels gain nothing by omitting
    hard units; `only_one` and `only_other` count the rest. `drawn` are their `distributions`.
    """
    keys = ["unit", "truth"]
    if not first.table[keys].equals(second.table[keys]):
        raise DissectError(
            "labels can be compared only if their units and ground truth are the same"
        )
    names = {metric.name for metric in metrics_of(second)}
    pair = drawn or (distributions(first, resampling), distributions(second, resampling))
    return {
        metric.name: _difference(metric, (first, second), pair, resampling)
        for metric in metrics_of(first)
        if metric.name in names
    }


def _difference(
    metric: Metric,
    sides: tuple[Units, Units],
    drawn: tuple[Distributions, Distributions],
    resampling: Resampling,
) -> dict[str, Any]:
    columns = [side.table[list(metric.columns)].to_numpy(dtype=float) for side in sides]
    known = [~np.isnan(values).any(axis=1) for values in columns]
    both = known[0] & known[1]
    first, second = (values[both] for values in columns)
    counts = {
        "units": int(both.sum()),
        "only_one": int((known[0] & ~both).sum()),
        "only_other": int((known[1] & ~both).sum()),
    }
    value = float(metric.of(*first.T) - metric.of(*second.T)) if both.any() else float("nan")
    if np.isnan(value):
        reason = "there is no unit that both have a number of, or it is undefined over them"
        return {"value": None, "low": None, "high": None, "reason": reason, **counts}
    if metric.is_share:
        ends = share_difference_interval(first[:, 0], second[:, 0], resampling.confidence)
    elif (known[0] == known[1]).all():
        ends = interval(drawn[0][metric.name] - drawn[1][metric.name], resampling.confidence)
    else:
        differences = [
            metric.of(*np.moveaxis(first[rows], -1, 0))
            - metric.of(*np.moveaxis(second[rows], -1, 0))
            for rows in resampling.rows(len(first))
        ]
        ends = interval(np.concatenate(differences), resampling.confidence)
    return {"value": value, **ends, **counts}


def mean_interval(values: Float[np.ndarray, " units"], resampling: Resampling) -> dict[str, Any]:
    """Return the JSON-able mean of units with its interval; NaN are left out and not counted."""
    known = values[~np.isnan(values)]
    return mean_intervals(known[:, None], resampling)[0]


def mean_intervals(
    values: Float[np.ndarray, "units columns"], resampling: Resampling
) -> list[dict[str, Any]]:
    """Return each column's mean with its interval, all by the same resampled sets of units.

    NaN are left out and not counted.
    """
    is_known = ~np.isnan(values)
    counts = is_known.sum(0)
    drawn, known = _resampled_means(values, is_known, resampling)
    return [
        {
            "units": int(count),
            "value": float(values[is_known[:, i], i].mean()),
            # Sets without a unit that has a value tell nothing of the mean.
            **interval(drawn[known[:, i] > 0, i], resampling.confidence),
        }
        if count
        else {"units": 0, "value": None, **_NOTHING}
        for i, count in enumerate(counts)
    ]


def _resampled_means(
    values: Float[np.ndarray, "units columns"],
    is_known: Bool[np.ndarray, "units columns"],
    resampling: Resampling,
) -> tuple[Float[np.ndarray, "resamples columns"], Int[np.ndarray, "resamples columns"]]:
    """Return each column's means of the resampled sets, and the number of values in them."""
    means = np.full((resampling.resamples, values.shape[1]), np.nan)
    known = np.zeros(means.shape, dtype=int)
    masks, of_mask = np.unique(is_known, axis=1, return_inverse=True)
    groups = [(rows, of_mask.ravel() == mask) for mask, rows in enumerate(masks.T) if rows.any()]
    start = 0
    for drawn in resampling.rows(len(values)) if groups else ():
        # How often each set has each unit: a product then gives the sums of many columns.
        shifted = drawn + np.arange(len(drawn))[:, None] * len(values)
        times = np.bincount(shifted.ravel(), minlength=drawn.size).reshape(drawn.shape)
        batch = slice(start, start + len(drawn))
        for rows, columns in groups:
            of_rows = times[:, rows]
            count = of_rows.sum(1, keepdims=True)
            known[batch, columns] = count
            with np.errstate(invalid="ignore"):
                means[batch, columns] = of_rows.astype(float) @ values[rows][:, columns] / count
        start += len(drawn)
    return means, known


def mean_difference(
    first: Float[np.ndarray, " units"], second: Float[np.ndarray, " others"], resampling: Resampling
) -> dict[str, Any]:
    """Return the JSON-able difference of the means of two sets of other units, unpaired."""
    one, other = (values[~np.isnan(values)] for values in (first, second))
    if not len(one) or not len(other):
        return {"value": None, **_NOTHING}
    independent = replace(resampling, seed=resampling.seed + 1)  # not the same rows for both
    drawn = _means(one, resampling) - _means(other, independent)
    ends = interval(drawn, resampling.confidence)
    return {"value": float(one.mean() - other.mean()), **ends}


def _means(
    values: Float[np.ndarray, " units"], resampling: Resampling
) -> Float[np.ndarray, " resamples"]:
    return np.concatenate([values[rows].mean(1) for rows in resampling.rows(len(values))])
