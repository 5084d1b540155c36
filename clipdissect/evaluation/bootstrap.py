"""Intervals over units, of metrics and of differences between two sets of labels.

Shares (accuracies, any mean of zeros and ones) have Wilson's score interval, and paired differences
of them Newcombe's: a bootstrap of 0 right labels of 118 draws nothing but zeros, and would call the
share 0 exactly. All other numbers have the bootstrap's percentile interval: it is defined for
medians, can't leave a metric's range, and over a thousand units BCa differs by less than the last
digit that tables show. The resampled units depend on the seed and the number of units alone, so
that two sets of labels of the same units are resampled alike: the interval of their difference is a
paired one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import binomtest

from clipdissect.errors import DissectError
from clipdissect.evaluation.measures import Metric, metrics_of
from clipdissect.evaluation.units import Units

_NUMBERS_AT_ONCE = 1_000_000

Distributions = Mapping[str, Float[np.ndarray, " resamples"]]


@dataclass(frozen=True)
class Resampling:
    """How to make intervals.

    Args:
        resamples: sets of units drawn with replacement.
        confidence: of the intervals, between 0 and 1.
        seed: of the draws.

    Raises:
        DissectError: a value out of its range.

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

    def rows(self, units: int) -> Iterator[Int[np.ndarray, "some units"]]:
        """Rows of the resampled sets, some sets at a time."""
        generator = np.random.default_rng(self.seed)
        at_once = max(1, _NUMBERS_AT_ONCE // max(units, 1))
        for start in range(0, self.resamples, at_once):
            some = min(at_once, self.resamples - start)
            yield generator.integers(0, units, size=(some, units), dtype=np.int32)


def distributions(units: Units, how: Resampling) -> dict[str, Float[np.ndarray, " resamples"]]:
    """Each metric's value in every resampled set; NaN where it is undefined there."""
    chosen = metrics_of(units)
    needed = {c: units.table[c].to_numpy(dtype=float) for m in chosen for c in m.columns}
    parts: dict[str, list[Float[np.ndarray, " some"]]] = {metric.name: [] for metric in chosen}
    for rows in how.rows(len(units.table)) if len(units.table) else ():
        drawn = {name: column[rows] for name, column in needed.items()}
        for metric in chosen:
            parts[metric.name].append(metric.of(*(drawn[c] for c in metric.columns)))
    return {name: np.concatenate(some) for name, some in parts.items() if some}


def interval(drawn: Float[np.ndarray, " resamples"], confidence: float) -> dict[str, Any]:
    """JSON-able `low` and `high` of the middle of a distribution; None and a reason if undefined.

    Args:
        drawn: a metric, or a difference, in every resampled set.
        confidence: the share of sets in between.
    """
    undefined = int(np.isnan(drawn).sum())
    if undefined or not len(drawn):
        reason = f"the metric is undefined in {undefined} of {len(drawn)} resampled sets of units"
        return {"low": None, "high": None, "reason": reason}
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return {"low": float(low), "high": float(high)}


def share_interval(right: int, of: int, confidence: float) -> dict[str, Any]:
    """JSON-able `low` and `high` of a share by Wilson's score method; None and a reason if of none.

    Args:
        right: how many are.
        of: of how many.
        confidence: of the interval.

    Source: Wilson, JASA 1927, as in scipy.
    """
    if not of:
        return {"low": None, "high": None, "reason": "there is nothing to count"}
    found = binomtest(right, of).proportion_ci(confidence, method="wilson")
    return {"low": float(found.low), "high": float(found.high)}


def share_difference_interval(
    one: Float[np.ndarray, " units"], other: Float[np.ndarray, " units"], confidence: float
) -> dict[str, Any]:  # fmt: skip
    """JSON-able `low` and `high` of one share minus another of the same units.

    Args:
        one, other: a zero or one for each unit.
        confidence: of the interval.

    Source: Newcombe, "Improved confidence intervals for the difference between binomial proportions
    based on paired data", Statistics in Medicine 1998, method 8.
    """
    if not len(one):
        return {"low": None, "high": None, "reason": "there is nothing to count"}
    p, q = float(one.mean()), float(other.mean())
    mine, theirs = (share_interval(int(side.sum()), len(side), confidence) for side in (one, other))
    spread = np.sqrt(p * (1 - p) * q * (1 - q))
    phi = float((one * other).mean() - p * q) / spread if spread else 0.0
    ends = {}
    for end, sign, a, b in (
        ("low", -1, p - mine["low"], theirs["high"] - q),
        ("high", 1, mine["high"] - p, q - theirs["low"]),
    ):
        ends[end] = float(p - q + sign * np.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0)))
    return ends


def intervals(units: Units, drawn: Distributions, confidence: float) -> dict[str, Any]:
    """JSON-able intervals, by metric.

    Args:
        units: whose metrics.
        drawn: their `distributions`.
        confidence: of the intervals.
    """
    found = {}
    for metric in metrics_of(units):
        if metric.is_share:
            hits = units.table[metric.columns[0]]
            found[metric.name] = share_interval(int(hits.sum()), len(hits), confidence)
        elif metric.name in drawn:
            found[metric.name] = interval(drawn[metric.name], confidence)
    return found


def difference(
    one: Units, other: Units, how: Resampling,
    drawn: tuple[Distributions, Distributions] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One minus the other, with paired intervals, for the metrics that both have.

    Both are over the units that have the metric on both sides: labels that leave the hard units out
    gain nothing by it.

    Args:
        one, other: of the same units in the same order.
        how: resampling.
        drawn: their `distributions`, where they are at hand already.

    Returns:
        JSON-able: metric to `value`, `low` and `high`; `units` (it is of), and `only_one` and
        `only_other` (left out as the other side has no number of them).

    Raises:
        DissectError: they aren't of the same units and right labels.
    """
    keys = ["unit", "truth"]
    if not one.table[keys].equals(other.table[keys]):
        raise DissectError("only labels of the same units, with the same truth, can be compared")
    theirs = {metric.name for metric in metrics_of(other)}
    first, second = drawn or (distributions(one, how), distributions(other, how))
    return {
        metric.name: _difference(metric, (one, other), (first, second), how)
        for metric in metrics_of(one)
        if metric.name in theirs
    }


def _difference(
    metric: Metric, sides: tuple[Units, Units], drawn: tuple[Distributions, Distributions],
    how: Resampling,
) -> dict[str, Any]:  # fmt: skip
    """A metric of one side minus the other's, over the units that both have."""
    columns = [side.table[list(metric.columns)].to_numpy(dtype=float) for side in sides]
    known = [~np.isnan(own).any(axis=1) for own in columns]
    both = known[0] & known[1]
    mine, theirs = (own[both] for own in columns)
    value = float(metric.of(*mine.T) - metric.of(*theirs.T)) if both.any() else float("nan")
    found = {"units": int(both.sum()), "only_one": int((known[0] & ~both).sum()),
             "only_other": int((known[1] & ~both).sum())}  # fmt: skip
    if np.isnan(value):
        reason = "there is no unit that both have a number of, or it is undefined over them"
        return {"value": None, "low": None, "high": None, "reason": reason, **found}
    if metric.is_share:
        span = share_difference_interval(mine[:, 0], theirs[:, 0], how.confidence)
    elif (known[0] == known[1]).all():
        span = interval(drawn[0][metric.name] - drawn[1][metric.name], how.confidence)
    else:
        resampled = _resampled(metric, (mine, theirs), how)
        span = interval(resampled, how.confidence)
    return {"value": value, **span, **found}


def _resampled(
    metric: Metric, sides: tuple[Float[np.ndarray, "units columns"], ...], how: Resampling
) -> Float[np.ndarray, " resamples"]:
    """The difference of a metric in every resampled set of the units that both sides have."""
    one, other = sides
    return np.concatenate([
        metric.of(*np.moveaxis(one[rows], -1, 0)) - metric.of(*np.moveaxis(other[rows], -1, 0))
        for rows in how.rows(len(one))
    ])  # fmt: skip
