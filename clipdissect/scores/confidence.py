"""The probability that a description is right, learned from units for which that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from clipdissect.errors import DissectError, unknown
from clipdissect.evaluation.bootstrap import Resampling
from clipdissect.scores.confidence_model import Features, fit_confidence, fit_known, fittable
from clipdissect.scores.conformal import conformal_threshold, prediction_set
from clipdissect.scores.reliability import calibration
from clipdissect.scores.risk_coverage import aurc, risk_coverage, risk_intervals

FEATURES = ("similarity", "margin")
TRANSFER = "confidence of units without truth assumes that they are like the units with truth"


@dataclass(frozen=True)
class ConfidenceSettings:
    """Settings of `confidence_of_run`.

    Args:
        features: columns of descriptions.csv that confidence is learned from.
        threshold: a description is right if its held-out score is above it; with a score only.
        folds: of cross-fitting, at least 2.
        error, delta: see `conformal_threshold`.
        alpha: see `prediction_set`.
        seed: of folds and splits.
    """

    features: Sequence[str] = FEATURES
    threshold: float | None = None
    folds: int = 5
    error: float = 0.1
    delta: float = 0.1
    alpha: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class ConfidenceResult:
    """Confidences of a run's units.

    Args:
        column: cross-fitted confidence per row of the descriptions; NaN where undefined.
        kept: units that the conformal threshold describes, by a model of a third of the units with
            truth; none if no threshold qualifies.
        metrics: JSON-able.
        curve: the table of `risk_coverage`.
        bands: the table of `risk_intervals`.
    """

    column: pd.Series[float]
    kept: pd.Series[bool]
    metrics: dict[str, Any]
    curve: pd.DataFrame
    bands: pd.DataFrame


def confidence(
    features: Features, right: Float[np.ndarray, " units"], folds: int = 5, seed: int = 0
) -> Float[np.ndarray, " units"]:
    """Return the probability that each description is right; NaN where a feature is undefined.

    Cross-fitted: the model of a unit with truth is fitted to the other folds. Units whose `right`
    is NaN get the model of all units with truth; see `ConfidenceModel.apply`.

    Raises:
        DissectError: too few units (see `fit_confidence`), or folds below 2.
    """
    known = np.flatnonzero(fittable(features, right))
    if not 2 <= folds <= len(known):
        raise DissectError(f"folds is {folds}; it must be between 2 and the {len(known)} units")
    result = fit_known(features[known], right[known]).apply(features)
    fold = _stratified_folds(right[known], folds, seed)
    for number in range(folds):
        others, held_out = known[fold != number], known[fold == number]
        result[held_out] = fit_known(features[others], right[others]).apply(features[held_out])
    return result


def features_of(descriptions: pd.DataFrame, names: Sequence[str] = FEATURES) -> Features:
    """Return columns of descriptions.csv, `[units, features]`.

    Raises:
        DissectError: no names, or no such column of numbers.
    """
    columns = [str(c) for c in descriptions.select_dtypes("number") if c != "unit"]
    if not names:
        raise DissectError(f"confidence needs at least one feature, such as {columns[0]}")
    for name in names:
        if name not in columns:
            raise unknown("feature", name, columns)
    return np.asarray(descriptions[list(names)], dtype=float)


def right_of(
    descriptions: pd.DataFrame, units: pd.DataFrame, column: str = "right"
) -> pd.Series[float]:
    """Return a column of units.csv for each row of descriptions.csv; NaN for other units."""
    if column not in units:
        names = [str(c) for c in units if str(c).startswith("right")]
        raise unknown("column of units.csv", column, names)
    rows = pd.MultiIndex.from_frame(descriptions[["layer", "unit"]])
    known = units.set_index(["layer", "unit"])[column].astype(float).reindex(rows)
    values: pd.Series[float] = known.set_axis(descriptions.index)
    return values


def confidence_of_run(
    descriptions: pd.DataFrame,
    right: pd.Series[float] | None = None,
    score: pd.Series[float] | None = None,
    settings: ConfidenceSettings = ConfidenceSettings(),
    resampling: Resampling = Resampling(),  # noqa: B008  it is frozen
) -> ConfidenceResult:
    """Return confidences of the units of a run, and how far they can be trusted.

    Args:
        descriptions: descriptions.csv.
        right: 1 or 0 per row, NaN if unknown; see `right_of`.
        score: instead, a held-out score per row: right is above `settings.threshold`.

    Raises:
        DissectError: neither or both of `right` and `score`, a score without a threshold, an
            unknown feature or too few units with truth.
    """
    features = features_of(descriptions, settings.features)
    truth = _truth(descriptions, right, score, settings.threshold)
    column = confidence(features, truth, settings.folds, settings.seed)
    kept, threshold = _guaranteed(features, truth, settings)
    curve = risk_coverage(column, truth)
    bands, area = risk_intervals(column, truth, resampling)
    judged = ~np.isnan(column) & ~np.isnan(truth)
    metrics = {
        "right_is": "named as in the ground truth"
        if score is None
        else f"held-out score above {settings.threshold:.3g}",
        "features": list(settings.features),
        "folds": settings.folds,
        "units": len(descriptions),
        **_counts(column, truth),
        "aurc": {"value": aurc(curve), **area},
        "aurc_of_constant": float(curve["risk"].iloc[-1]),
        "risk_at_coverage": bands.to_dict("records"),
        "calibration": calibration(column, truth, resampling.confidence),
        "conformal_threshold": threshold,
        **_prediction_set(descriptions[judged], settings),
    }
    values: pd.Series[float] = pd.Series(column, descriptions.index, name="confidence")
    described: pd.Series[bool] = pd.Series(kept, descriptions.index, name="kept")
    return ConfidenceResult(values, described, metrics, curve, bands)


def _counts(
    column: Float[np.ndarray, " units"], truth: Float[np.ndarray, " units"]
) -> dict[str, Any]:
    defined = ~np.isnan(column)
    judged = defined & ~np.isnan(truth)
    counts: dict[str, Any] = {
        "with_confidence": int(defined.sum()),
        "with_truth": int(judged.sum()),
        "right": int(truth[judged].sum()),
    }
    return counts if judged.sum() == defined.sum() else {**counts, "note": TRANSFER}


def _prediction_set(judged: pd.DataFrame, settings: ConfidenceSettings) -> dict[str, Any]:
    if "truth_rank" not in judged:
        return {}
    # A described unit without a rank: its class name is no concept, so no set contains it.
    ranks = judged["truth_rank"].astype(float).fillna(np.inf).to_numpy()
    return {"prediction_set": prediction_set(ranks, settings.alpha, settings.seed)}


def _stratified_folds(
    right: Float[np.ndarray, " units"], folds: int, seed: int
) -> Int[np.ndarray, " units"]:
    # Stratified: else a fold with more right units leaves fewer to its model, which then answers
    # lower just there.
    order = np.random.default_rng(seed).permutation(len(right))
    order = order[np.argsort(right[order], kind="stable")]
    fold = np.empty(len(right), dtype=int)
    fold[order] = np.arange(len(right)) % folds
    return fold


def _truth(
    descriptions: pd.DataFrame,
    right: pd.Series[float] | None,
    score: pd.Series[float] | None,
    threshold: float | None,
) -> Float[np.ndarray, " units"]:
    if (right is None) == (score is None):
        raise DissectError("confidence is learned from either right labels or a held-out score")
    if (score is None) != (threshold is None):
        raise DissectError("a threshold belongs to a held-out score: set both or none")
    known = right if right is not None else score
    assert known is not None
    if not known.index.equals(descriptions.index):
        raise DissectError("truth must have the rows of the descriptions: see right_of")
    values = np.asarray(known, dtype=float)
    if threshold is None:
        return values
    return np.asarray(np.where(np.isnan(values), np.nan, values > threshold))


def _guaranteed(
    features: Features, right: Float[np.ndarray, " units"], settings: ConfidenceSettings
) -> tuple[Bool[np.ndarray, " units"], dict[str, Any]]:
    """Fit to a third of the units with truth; calibrate a threshold and test it on the others.

    The guarantee needs a model that knows nothing of the units it is calibrated on, which
    cross-fitted confidences aren't.
    """
    known = np.flatnonzero(fittable(features, right))
    known = np.random.default_rng(settings.seed).permutation(known)
    fitted, others = np.split(known, [len(known) // 3])
    try:
        model = fit_confidence(features[fitted], right[fitted])
    except DissectError as error:
        reason = f"a third of the units isn't enough: {error}"
        return np.zeros(len(right), dtype=bool), {"threshold": None, "reason": reason}
    values = model.apply(features)
    found = conformal_threshold(
        values[others], right[others], settings.error, settings.delta, settings.seed
    )
    threshold = np.inf if found["threshold"] is None else found["threshold"]
    kept = np.greater_equal(values, threshold)  # NaN: not kept
    return kept, {**found, "fitted": len(fitted), "kept": int(kept.sum())}
