"""Abstention: how many descriptions are wrong among those of the most confident units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from clipdissect.errors import DissectError
from clipdissect.evaluation.bootstrap import Resampling, interval

COVERAGES = tuple(round(0.05 * step, 2) for step in range(1, 21))

Values = Float[np.ndarray, " units"]
Counts = Int[np.ndarray, "*sets groups"]


def risk_coverage(confidence: Values, right: Values) -> pd.DataFrame:
    """Return `threshold, described, coverage, wrong, risk`, a row per distinct confidence.

    Units with a confidence of at least `threshold` are described, so units with equal confidences
    are together. `coverage` is their share, `risk` the share of wrong ones among them. Units
    without confidence or truth are left out.

    Raises:
        DissectError: no unit has both.

    Source: Geifman & El-Yaniv, "Selective classification for deep neural networks", NeurIPS 2017.
    """
    thresholds, group, wrong = _groups(confidence, right)
    described, errors = _cumulative(group[None], wrong[None], len(thresholds))
    columns: dict[str, Any] = {
        "threshold": thresholds,
        "described": described[0],
        "coverage": described[0] / len(group),
        "wrong": errors[0],
        "risk": errors[0] / described[0],
    }
    curve: pd.DataFrame = pd.DataFrame(columns)
    return curve


def aurc(curve: pd.DataFrame) -> float:
    """Return the area under `risk_coverage`: the mean over units of the risk when each is added.

    A group of equal confidences is added at once, so a constant confidence has the error rate.
    Source: Geifman, Uziel & El-Yaniv, "Bias-reduced uncertainty estimation", ICLR 2019.
    """
    described = curve["described"].to_numpy()[None]
    return float(_areas(described, curve["wrong"].to_numpy()[None])[0])


def risk_intervals(
    confidence: Values,
    right: Values,
    resampling: Resampling,
    coverages: Sequence[float] = COVERAGES,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the risk at least coverages with intervals over units, and the interval of the area.

    The table has `coverage` (as asked), `described` (the fewest units with at least this coverage,
    more where confidences are equal), `threshold, risk, low, high`. Confidences are taken as given:
    the model isn't fitted anew in resampled sets.
    """
    outside = [c for c in coverages if not 0 < c <= 1]
    if outside:
        raise DissectError(f"a coverage is {outside[0]}; it must be above 0 and at most 1")
    thresholds, group, wrong = _groups(confidence, right)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for rows in resampling.rows(len(group)):
        described, errors = _cumulative(group[rows], wrong[rows], len(thresholds))
        parts.append((_risks(described, errors, coverages), _areas(described, errors)))
    drawn, areas = (np.concatenate(batches) for batches in zip(*parts, strict=True))
    described, errors = _cumulative(group[None], wrong[None], len(thresholds))
    last = _last_groups(described, coverages)[0]
    risks = _risks(described, errors, coverages)[0]
    rows_ = [
        {
            "coverage": float(coverage),
            "described": int(described[0, last[i]]),
            "threshold": float(thresholds[last[i]]),
            "risk": float(risks[i]),
            **interval(drawn[:, i], resampling.confidence),
        }
        for i, coverage in enumerate(coverages)
    ]
    return pd.DataFrame(rows_), interval(areas, resampling.confidence)


def figure(curve: pd.DataFrame, bands: pd.DataFrame) -> Any:
    """Return a figure of the risk over coverage, next to no and to perfect confidence."""
    from matplotlib.figure import Figure

    result = Figure((4.8, 3.6), layout="constrained")
    axis = result.subplots()
    axis.fill_between(bands["coverage"], bands["low"], bands["high"], color="0.85", linewidth=0)
    axis.plot(curve["coverage"], curve["risk"], color="black", label="confidence")
    error = float(curve["risk"].iloc[-1])
    axis.axhline(error, color="0.5", linestyle="--", label="no confidence")
    coverage = np.linspace(0.005, 1, 200)
    perfect = np.maximum(0, 1 - (1 - error) / coverage)
    axis.plot(coverage, perfect, color="0.5", linestyle=":", label="perfect confidence")
    axis.set(xlabel="share of units described", ylabel="share of wrong descriptions")
    axis.set(xlim=(0, 1), ylim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)
    result.legend(loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    return result


def _groups(
    confidence: Values, right: Values
) -> tuple[Float[np.ndarray, " groups"], Int[np.ndarray, " known"], Float[np.ndarray, " known"]]:
    """Return distinct confidences, highest first, each unit's group, and whether it is wrong."""
    known = ~np.isnan(confidence) & ~np.isnan(right)
    if not known.any():
        raise DissectError("no unit has both a confidence and a known truth")
    negative, group = np.unique(-confidence[known], return_inverse=True)
    return -negative, group, 1.0 - right[known]


def _cumulative(
    group: Int[np.ndarray, "sets units"], wrong: Float[np.ndarray, "sets units"], groups: int
) -> tuple[Counts, Counts]:
    """Return the numbers of units and of wrong ones down to each group, per resampled set."""
    sets = len(group)
    places = (group + groups * np.arange(sets)[:, None]).ravel()
    counts = np.bincount(places, minlength=sets * groups)
    errors = np.bincount(places, weights=wrong.ravel(), minlength=sets * groups).astype(int)
    shape = (sets, groups)
    return counts.reshape(shape).cumsum(1), errors.reshape(shape).cumsum(1)


def _last_groups(described: Counts, coverages: Sequence[float]) -> Int[np.ndarray, "sets covers"]:
    """Return the first group down to which at least each coverage is described."""
    units = described[0, -1]
    # Rounded first: 0.07 * 100 is above 7.
    wanted = [int(np.ceil(round(c * units, 6))) for c in coverages]
    return np.stack([(described < count).sum(1) for count in wanted], axis=1)


def _risks(
    described: Counts, errors: Counts, coverages: Sequence[float]
) -> Float[np.ndarray, "sets covers"]:
    last = _last_groups(described, coverages)
    result = np.take_along_axis(errors, last, 1) / np.take_along_axis(described, last, 1)
    return np.asarray(result)


def _areas(described: Counts, errors: Counts) -> Float[np.ndarray, " sets"]:
    added = np.diff(described, axis=1, prepend=0)
    risks = errors / np.maximum(described, 1)  # groups before the first drawn unit: none is added
    return np.asarray((added * risks).sum(1) / described[:, -1])
