"""Guarantees for units exchangeable with the calibration units: few wrong, or the right one in.

Source: Angelopoulos & Bates, "Conformal prediction: a gentle introduction", Foundations and Trends
in Machine Learning 2023.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import beta, binom

from clipdissect.errors import DissectError

# Set before any unit is seen, as fixed sequence testing requires.
THRESHOLDS = np.arange(100, -1, -1) / 100
ASSUMPTION = "holds for units exchangeable with the calibration units, such as others of the layer"


def conformal_threshold(
    confidence: Float[np.ndarray, " units"],
    right: Float[np.ndarray, " units"],
    error: float = 0.1,
    delta: float = 0.1,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the smallest threshold with at most `error` wrong, with probability `1 - delta`.

    Half of the units calibrate, the others test. From the highest threshold down, hypotheses
    "P(wrong | confidence >= threshold) > error" are tested until one isn't rejected: rejected if
    the Clopper-Pearson bound `Beta(1 - delta; wrong + 1, described - wrong)` is at most `error`.
    As the order is fixed, no correction for several tests is needed. The first threshold is the
    highest at which as many test units are described as it takes to accept half of `error` more
    often than not: with fewer, one wrong unit may end the sequence. It must not depend on the
    calibration units.

    Args:
        confidence, right: of units that the confidence's model wasn't fitted to; units with NaN
            are left out.
        error: accepted share of wrong descriptions among the described units.
        delta: accepted probability that the threshold has a larger one.

    Returns:
        JSON-able; `threshold` is None, with a `reason`, if no threshold qualifies.

    Source: Angelopoulos et al., "Learn then test: calibrating predictive algorithms to achieve
    risk control", 2021 (fixed sequence testing); Clopper & Pearson, Biometrika 1934.
    """
    for name, value in (("error", error), ("delta", delta)):
        _check_share(name, value)
    known = np.flatnonzero(~np.isnan(confidence) & ~np.isnan(right))
    calibrating, testing = (known[half] for half in _halves(len(known), seed))
    least = _least_described(len(testing), error, delta)
    described = [int((confidence[testing] >= t).sum()) for t in THRESHOLDS]
    sequence = [t for t, n in zip(THRESHOLDS, described, strict=True) if n >= least]
    result = {"error": error, "delta": delta, "assumption": ASSUMPTION}
    if not sequence:
        reason = f"{len(known)} units with truth are too few for an error of {error}"
        return {"threshold": None, "reason": reason, **result}
    threshold = None
    for candidate in sequence:
        found = _counts(confidence[calibrating], right[calibrating], candidate, delta)
        if found["bound"] > error:
            break
        threshold, accepted = float(candidate), found
    if threshold is None:
        reason = (
            f"at the first threshold, {sequence[0]:.2f}, {found['wrong']} of {found['described']} "
            f"described calibration units are wrong, so the share may be {found['bound']:.3f}"
        )
        return {"threshold": None, "reason": reason, **result}
    tested = _counts(confidence[testing], right[testing], threshold, delta)
    return {"threshold": threshold, **result, "calibration": accepted, "test": tested}


def prediction_set(
    truth_rank: Float[np.ndarray, " units"], alpha: float = 0.1, seed: int = 0
) -> dict[str, Any]:
    """Return how many top concepts contain the right one with probability `1 - alpha`.

    Half of the units calibrate, the others test. `rank` is the `ceil((n + 1)(1 - alpha))`-th
    smallest of the n calibration ranks: the set has the concepts of at most this rank. The
    probability is over units and calibration units.

    Args:
        truth_rank: of the right concept, from 1, ties averaged; infinite if it is no concept.
            Units with NaN are left out.

    Returns:
        JSON-able; `rank` is None, with a `reason`, if no set is large enough.
    """
    _check_share("alpha", alpha)
    ranks = truth_rank[~np.isnan(truth_rank)]
    calibrating, testing = (ranks[half] for half in _halves(len(ranks), seed))
    place = math.ceil(round((len(calibrating) + 1) * (1 - alpha), 9))  # 0.9 * 10 is above 9
    result = {"alpha": alpha, "assumption": ASSUMPTION}
    if place > len(calibrating):
        reason = f"{len(calibrating)} calibration units are too few for alpha={alpha}"
        return {"rank": None, "reason": reason, **result}
    rank = float(np.sort(calibrating)[place - 1])
    if np.isinf(rank):
        reason = "the right label is no concept for too many units"
        return {"rank": None, "reason": reason, **result}
    counts = {"calibration": len(calibrating), "test": len(testing)}
    return {"rank": rank, **result, **counts, "test_coverage": float((testing <= rank).mean())}


def _halves(units: int, seed: int) -> tuple[Int[np.ndarray, " half"], Int[np.ndarray, " rest"]]:
    order = np.random.default_rng(seed).permutation(units)
    return order[: units // 2], order[units // 2 :]


def _least_described(units: int, error: float, delta: float) -> float:
    """Return how many units it takes to accept half the error more often than not."""
    counts = np.arange(1, units + 1)
    accepted = binom.ppf(delta, counts, error) - 1  # the most wrong units that are accepted
    enough = binom.cdf(accepted, counts, error / 2) >= 0.5
    return float(counts[enough][0]) if enough.any() else math.inf


def _counts(
    confidence: Float[np.ndarray, " units"],
    right: Float[np.ndarray, " units"],
    threshold: float,
    delta: float,
) -> dict[str, Any]:
    """Return described and wrong units, and the upper bound of the share of wrong ones."""
    kept = confidence >= threshold
    described, wrong = int(kept.sum()), int((1 - right[kept]).sum())
    bound = 1.0 if wrong == described else float(beta.ppf(1 - delta, wrong + 1, described - wrong))
    return {"units": len(right), "described": described, "wrong": wrong, "bound": bound}


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise DissectError(f"{name} is {value}; it must be between 0 and 1")
