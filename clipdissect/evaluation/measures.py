"""The metrics: numbers of a set of units, for many resampled sets at once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from clipdissect.evaluation.units import ANY, NOT_DESCRIBED, Units

Values = Float[np.ndarray, "*sets units"]


@dataclass(frozen=True)
class Metric:
    """A number of a set of units.

    Args:
        name: as in the results.
        columns: of the units' table that it reads.
        of: takes these columns, each `[*sets, units]`, and returns `[*sets]`; NaN where undefined.
        empty: why it is undefined where its columns are there.
        is_share: whether it is the mean of one column of zeros and ones.
    """

    name: str
    columns: tuple[str, ...]
    of: Callable[..., Float[np.ndarray, "*sets"]]
    empty: str
    is_share: bool = False


def mean(values: Values) -> Float[np.ndarray, "*sets"]:
    """The mean of what is defined, over the last axis."""
    return _quietly(np.nanmean, values)


def median(values: Values) -> Float[np.ndarray, "*sets"]:
    """The median of what is defined, over the last axis."""
    return _quietly(np.nanmedian, values)


def auc(scores: Values, right: Values) -> Float[np.ndarray, "*sets"]:
    """The chance that a right label's score is above a wrong one's; equal scores count half.

    That is the area under the receiver operating characteristic. Units without a score are left
    out.

    Args:
        scores: larger for labels that should be right, `[*sets, units]`.
        right: 1 or 0.

    Returns:
        `[*sets]`; NaN where there is no right or no wrong label.

    Source: Hanley & McNeil, Radiology 1982: the Mann-Whitney statistic over the number of pairs.
    """
    known = ~np.isnan(scores)
    positive = known & (right > 0)
    # Put above all others, units without a score move no other one's rank.
    ranks = rankdata(np.where(known, scores, np.inf), axis=-1)
    first, second = positive.sum(-1), (known & ~positive).sum(-1)
    pairs = (ranks * positive).sum(-1) - first * (first + 1) / 2
    with np.errstate(invalid="ignore"):
        return np.asarray(pairs / (first * second), dtype=float)


_NO_UNITS = "there are no units"
METRICS = (
    Metric("top1", ("right",), mean, _NO_UNITS, is_share=True),
    Metric(f"top1{ANY}", (f"right{ANY}",), mean, _NO_UNITS, is_share=True),
    Metric("top5", ("top5",), mean, _NO_UNITS, is_share=True),
    Metric(f"top5{ANY}", (f"top5{ANY}",), mean, _NO_UNITS, is_share=True),
    Metric("mean_rank", ("rank",), mean, "no right label has a rank"),
    Metric("median_rank", ("rank",), median, "no right label has a rank"),
    Metric("auc", ("similarity", "right"), auc, "it takes right and wrong labels with scores"),
)


def metrics_of(units: Units) -> list[Metric]:
    """The metrics that the table has the columns for, cosines first."""
    table, reasons = units.table, units.reasons
    cosines = [
        Metric(str(column), (str(column),), mean, NOT_DESCRIBED)
        for column in table
        if str(column).endswith("_cos")
    ]
    others = [m for m in METRICS if m.name not in reasons and set(m.columns) <= set(table)]
    return [*cosines, *others]


def values(units: Units) -> dict[str, Any]:
    """JSON-able metrics; an undefined one is None, with the reason under `<metric>_reason`.

    Also how many labels are right (`top1_right`), and how many units the ranks are of (`ranked`).
    """
    found: dict[str, Any] = {}
    for metric in metrics_of(units):
        columns = [units.table[c].to_numpy(dtype=float) for c in metric.columns]
        value = float(metric.of(*columns))
        found |= defined(metric.name, value, metric.empty)
        if metric.columns[0].startswith("right"):
            found[f"{metric.name}_right"] = int(columns[0].sum())
        if metric.name == "mean_rank":
            found["ranked"] = int((~np.isnan(columns[0])).sum())
    for name, reason in units.reasons.items():
        found |= {name: None, f"{name}_reason": reason}
    return found


def defined(name: str, value: float, reason: str) -> dict[str, Any]:
    """The value under its name; None and the reason where it is undefined."""
    return {name: value} if np.isfinite(value) else {name: None, f"{name}_reason": reason}


def _quietly(function: Callable[..., Any], values: Values) -> Float[np.ndarray, "*sets"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of sets with nothing defined: NaN
        return np.asarray(function(values, axis=-1), dtype=float)
