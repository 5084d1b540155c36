"""The metrics, vectorised over resampled sets of units."""

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
    """A metric of a set of units, computed by `of` from columns of the units' table."""

    name: str
    columns: tuple[str, ...]
    of: Callable[..., Float[np.ndarray, "*sets"]]  # of columns `[*sets, units]`; NaN if undefined
    empty: str  # why it may be undefined although its columns exist
    is_share: bool = False  # the mean of one column of zeros and ones


def mean(values: Values) -> Float[np.ndarray, "*sets"]:
    """Compute the mean over the last axis, ignoring NaN."""
    return _without_warnings(np.nanmean, values)


def median(values: Values) -> Float[np.ndarray, "*sets"]:
    """Compute the median over the last axis, ignoring NaN."""
    return _without_warnings(np.nanmedian, values)


def auc(scores: Values, right: Values) -> Float[np.ndarray, "*sets"]:
    """Compute the area under the ROC curve; NaN where there is no right or no wrong label.

    Ties count half, and units without a score are excluded. Source: Hanley & McNeil, Radiology
    1982: the Mann-Whitney statistic over the number of pairs.
    """
    known = ~np.isnan(scores)
    positive = known & (right > 0)
    # Units without a score get the highest ranks, which changes no other rank.
    ranks = rankdata(np.where(known, scores, np.inf), axis=-1)
    positives, negatives = positive.sum(-1), (known & ~positive).sum(-1)
    u_statistic = (ranks * positive).sum(-1) - positives * (positives + 1) / 2
    with np.errstate(invalid="ignore"):
        return np.asarray(u_statistic / (positives * negatives), dtype=float)


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
    """Return the metrics whose columns the table has, cosines first."""
    table, reasons = units.table, units.reasons
    cosines = [
        Metric(str(column), (str(column),), mean, NOT_DESCRIBED)
        for column in table
        if str(column).endswith("_cos")
    ]
    others = [m for m in METRICS if m.name not in reasons and set(m.columns) <= set(table)]
    return [*cosines, *others]


def values(units: Units) -> dict[str, Any]:
    """Return JSON-able metrics; undefined ones are None, with a reason in `<metric>_reason`."""
    result: dict[str, Any] = {}
    for metric in metrics_of(units):
        columns = [units.table[c].to_numpy(dtype=float) for c in metric.columns]
        value = float(metric.of(*columns))
        result |= defined(metric.name, value, metric.empty)
        if metric.columns[0].startswith("right"):
            result[f"{metric.name}_right"] = int(columns[0].sum())
        if metric.name == "mean_rank":
            result["ranked"] = int((~np.isnan(columns[0])).sum())
    for name, reason in units.reasons.items():
        result |= {name: None, f"{name}_reason": reason}
    return result


def defined(name: str, value: float, reason: str) -> dict[str, Any]:
    """Return the value under its name; None and the reason if it is undefined."""
    return {name: value} if np.isfinite(value) else {name: None, f"{name}_reason": reason}


def _without_warnings(function: Callable[..., Any], values: Values) -> Float[np.ndarray, "*sets"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all NaN: the result is NaN
        return np.asarray(function(values, axis=-1), dtype=float)
