"""A model of the probability that a description is right, from numbers such as its margin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from clipdissect.errors import DissectError

LEAST_UNITS, LEAST_OF_CLASS = 50, 5

Features = Float[np.ndarray, "units features"]


@dataclass(frozen=True)
class ConfidenceModel:
    """Probability that a description is right, from features such as similarity and margin.

    `weights` (intercept first) make one score of the features' ranks among `reference`, the sorted
    features of the fitted units; `probabilities` rise with `scores` and are interpolated.
    """

    reference: Float[np.ndarray, "fitted features"]
    weights: Float[np.ndarray, " weights"]
    scores: Float[np.ndarray, " knots"]
    probabilities: Float[np.ndarray, " knots"]

    def apply(self, features: Features) -> Float[np.ndarray, " units"]:
        """Return probabilities; NaN where a feature is undefined.

        For units of another kind than the fitted ones (another layer), that one score means the
        same probability in both is an assumption: nothing in the features can show it.
        """
        result = np.full(len(features), np.nan)
        described = np.isfinite(features).all(1)
        ranks = _ranks(features[described], self.reference)
        result[described] = np.interp(_linear(ranks, self.weights), self.scores, self.probabilities)
        return result


def fit_confidence(features: Features, right: Float[np.ndarray, " units"]) -> ConfidenceModel:
    """Fit a model to units with truth (`right` 1 or 0, else NaN) and finite features.

    A logistic regression on the features' ranks makes one score, so that neither feature must be
    chosen and scales don't matter; isotonic regression makes a probability of it. One wrong unit
    is added at the highest score and one right unit at the lowest: no finite number of right units
    shows that none is wrong, so probabilities are never 0 or 1.

    Raises:
        DissectError: fewer than 50 such units, or fewer than 5 right or 5 wrong ones.

    Source: Zadrozny & Elkan, "Transforming classifier scores into accurate multiclass probability
    estimates", KDD 2002 (isotonic regression of a score).
    """
    known = fittable(features, right)
    return fit_known(features[known], right[known])


def fittable(features: Features, right: Float[np.ndarray, " units"]) -> Bool[np.ndarray, " units"]:
    """Return which units a model can be fitted to; the errors are `fit_confidence`'s."""
    wrong_values = set(right[~np.isnan(right)].tolist()) - {0.0, 1.0}
    if wrong_values:
        raise DissectError(f"right is {min(wrong_values)} for some unit; it must be 0 or 1")
    known = np.asarray(np.isfinite(features).all(1) & ~np.isnan(right))
    units, rights = int(known.sum()), int(right[known].sum())
    if units < LEAST_UNITS or not LEAST_OF_CLASS <= rights <= units - LEAST_OF_CLASS:
        raise DissectError(
            f"confidence can't be learned from {units} described units with truth, {rights} of "
            f"them right: it takes {LEAST_UNITS} units, {LEAST_OF_CLASS} right and "
            f"{LEAST_OF_CLASS} wrong"
        )
    return known


def fit_known(features: Features, right: Float[np.ndarray, " units"]) -> ConfidenceModel:
    """Fit a model to `fittable` units."""
    from scipy.optimize import isotonic_regression

    reference = np.sort(features, axis=0)
    ranks = _ranks(features, reference)
    weights = _logistic_regression(ranks, right)
    scores = _linear(ranks, weights)
    scores = np.append(scores, [scores.max(), scores.min()])  # see `fit_confidence`
    right = np.append(right, [0.0, 1.0])
    knots, knot, counts = np.unique(scores, return_inverse=True, return_counts=True)
    shares = np.bincount(knot, weights=right) / counts
    probabilities = isotonic_regression(shares, weights=counts).x
    return ConfidenceModel(reference, weights, knots, probabilities)


def _ranks(features: Features, reference: Float[np.ndarray, "fitted features"]) -> Features:
    """Return ranks among the reference, ties averaged, scaled as a uniform variable is: mean 0."""
    ranks = np.empty_like(features)
    for column, (values, ordered) in enumerate(zip(features.T, reference.T, strict=True)):
        below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
        ranks[:, column] = np.sqrt(12) * (below / (2 * len(ordered)) - 0.5)
    return ranks


def _linear(ranks: Features, weights: Float[np.ndarray, " weights"]) -> Float[np.ndarray, " units"]:
    # Not a matrix product: equal rows must give equal scores, bit by bit.
    return np.asarray((ranks * weights[1:]).sum(1) + weights[0])


def _logistic_regression(
    x: Features, y: Float[np.ndarray, " units"]
) -> Float[np.ndarray, " weights"]:
    """Return intercept and weights; the penalty `|weights|^2 / 2` bounds separable classes'."""
    from scipy.optimize import minimize
    from scipy.special import expit

    design = np.column_stack([np.ones(len(x)), x])
    penalised = np.append(0.0, np.ones(x.shape[1]))

    def loss(weights: Float[np.ndarray, " weights"]) -> tuple[float, np.ndarray]:
        logits = design @ weights
        value = np.logaddexp(0, logits).sum() - y @ logits + penalised @ weights**2 / 2
        return value, design.T @ (expit(logits) - y) + penalised * weights

    return np.asarray(minimize(loss, np.zeros(design.shape[1]), jac=True, method="BFGS").x)
