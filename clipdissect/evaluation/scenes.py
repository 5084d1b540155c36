"""Accuracy on the classes of Places365 that Broden labels (the paper's Table 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from clipdissect.datasets.places365 import MATCHINGS, match_key, places_to_broden
from clipdissect.evaluation.bootstrap import Resampling, share_interval
from clipdissect.evaluation.units import TOP

PUBLISHED_CLASSES = 267


def places365(
    rows: pd.DataFrame, names: Sequence[str], scenes: Sequence[str] | None, how: Resampling
) -> dict[str, Any]:
    """JSON-able accuracies over the classes whose name is a Broden scene, by matching.

    `released` compares names as the published code did, which takes
    `apartment_building-outdoor` and `apartment_building/outdoor` for different; `normalised` takes
    blanks and `_ - /` for the same. A label is right in `top5` if any of the unit's five is,
    however many are: the released notebook counts a hit twice where a Broden label is listed twice.

    Args:
        rows: the units' descriptions, one row a class, as of `units.rows_of`.
        names: the 365 classes.
        scenes: Broden's scene labels. Without them right labels are counted over all classes, and
            the denominator is the paper's 267; that is the same where all labels are of scenes.
        how: the intervals are made.

    Source: Table 2.
    """
    found: dict[str, Any] = {}
    if scenes is None:
        found["note"] = (
            f"Broden's scene labels (c_scene.csv) aren't here: right labels are counted over all "
            f"classes, and divided by the published number of classes, {PUBLISHED_CLASSES}"
        )
    for matching in MATCHINGS:
        counted = set(range(len(names)))
        if scenes is not None:
            counted = set(places_to_broden(names, scenes, "normalised"))
        of = PUBLISHED_CLASSES if scenes is None else len(counted)
        found[matching] = _accuracy("top1", _hits(rows, names, counted, matching, 1), of, how)
        if all(f"description_{n}" in rows for n in range(2, TOP + 1)):
            found[matching] |= _accuracy(
                "top5", _hits(rows, names, counted, matching, TOP), of, how
            )
        else:
            reason = f"there are fewer than {TOP} labels a unit"
            found[matching] |= {"top5": None, "top5_reason": reason}
    return found


def _hits(
    rows: pd.DataFrame, names: Sequence[str], counted: set[int], matching: str, best: int
) -> int:
    """Counted classes with a right label among their unit's best."""
    columns = ["description", *(f"description_{n}" for n in range(2, best + 1))]
    labels = rows[columns].to_numpy(dtype=object)
    return sum(
        match_key(names[i], matching) in {match_key(label, matching) for label in labels[i]}
        for i in counted
    )


def _accuracy(name: str, right: int, of: int, how: Resampling) -> dict[str, Any]:
    """The share, with its interval."""
    if not of:
        return {name: None, f"{name}_reason": "no class is among Broden's scenes"}
    # Without Broden's scenes more classes may be right than the published number of them.
    span = share_interval(min(right, of), of, how.confidence)
    return {name: right / of, f"{name}_right": right, "classes": of, f"{name}_interval": span}
