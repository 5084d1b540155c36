"""Calibration: whether descriptions with a confidence of p are right with probability p."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from clipdissect.errors import DissectError
from clipdissect.evaluation.bootstrap import share_interval

BINS = 10


def calibration(
    confidence: Float[np.ndarray, " units"],
    right: Float[np.ndarray, " units"],
    interval_confidence: float = 0.95,
    bins: int = BINS,
) -> dict[str, Any]:
    """Return JSON-able Brier score, expected calibration error and reliability table.

    `brier` is mean (confidence - right)^2, `brier_of_constant` that of the share of right ones for
    all; `ece = sum_b n_b/n |mean confidence_b - share right_b|` over bins of equal width. Units
    without confidence or truth are left out, and so are empty bins.

    Raises:
        DissectError: no unit has both.

    Source: Brier, Monthly Weather Review 1950; Guo et al., "On calibration of modern neural
    networks", ICML 2017 (ece).
    """
    known = ~np.isnan(confidence) & ~np.isnan(right)
    if not known.any():
        raise DissectError("no unit has both a confidence and a known truth")
    p, y = confidence[known], right[known]
    bin_of = np.minimum((p * bins).astype(int), bins - 1)
    table = []
    for number in np.unique(bin_of):
        members = bin_of == number
        rights, count = int(y[members].sum()), int(members.sum())
        row = {
            "from": float(number / bins),
            "to": float((number + 1) / bins),
            "units": count,
            "confidence": float(p[members].mean()),
            "right": rights / count,
            **share_interval(rights, count, interval_confidence),
        }
        table.append(row)
    ece = sum(row["units"] * abs(row["confidence"] - row["right"]) for row in table) / len(p)
    return {
        "brier": float(np.mean((p - y) ** 2)),
        "brier_of_constant": float(y.mean() * (1 - y.mean())),
        "ece": float(ece),
        "reliability": table,
    }
