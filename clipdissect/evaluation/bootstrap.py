"""Bootstrap intervals over units, of metrics and of differences between two sets of labels.

The percentile interval: it is defined for medians and for accuracies near 0 and 1, where the
acceleration of BCa isn't, can't leave a metric's range, and over a thousand units the two differ
by less than the last digit that tables show. The resampled units depend on the seed and the number
of units alone, so that two sets of labels of the same units are resampled alike: the interval of
their difference is a paired one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from clipdissect.errors import DissectError
from clipdissect.evaluation.measures import metrics_of, values
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


def intervals(drawn: Distributions, confidence: float) -> dict[str, Any]:
    """JSON-able intervals, by metric."""
    return {name: interval(some, confidence) for name, some in drawn.items()}


def difference(
    one: Units, other: Units, how: Resampling,
    drawn: tuple[Distributions, Distributions] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One minus the other, with paired intervals, for the metrics that both have.

    Args:
        one, other: of the same units in the same order.
        how: resampling.
        drawn: their `distributions`, where they are at hand already.

    Returns:
        JSON-able: metric to `value`, `low` and `high`.

    Raises:
        DissectError: they aren't of the same units and right labels.
    """
    keys = ["unit", "truth"]
    if not one.table[keys].equals(other.table[keys]):
        raise DissectError("only labels of the same units, with the same truth, can be compared")
    first, second = drawn or (distributions(one, how), distributions(other, how))
    mine, theirs = values(one), values(other)
    return {
        name: {"value": mine[name] - theirs[name]}
        | interval(first[name] - second[name], how.confidence)
        for name in first
        if name in second and mine[name] is not None and theirs[name] is not None
    }
