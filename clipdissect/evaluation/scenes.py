"""Accuracy on the classes of Places365 that Broden labels (the paper's Table 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from clipdissect.datasets.places365 import MATCHINGS, match_key, places_to_broden
from clipdissect.evaluation.bootstrap import Resampling, share_interval
from clipdissect.evaluation.units import TOP, TOP_COLUMNS

PUBLISHED_CLASSES = 267


def places365(
    rows: pd.DataFrame, names: Sequence[str], scenes: Sequence[str] | None, resampling: Resampling
) -> dict[str, Any]:
    """Return JSON-able accuracies over the classes that are Broden scenes, by matching (Table 2).

    `released` compares names as the published code did, so `apartment_building-outdoor` isn't
    `apartment_building/outdoor`; `normalised` treats blanks and `_ - /` as equal. `top5` counts
    a class once; the released notebook counts repeated Broden labels twice. Without `scenes`,
    right labels count over all 365 classes and the denominator is the paper's 267.
    """
    result: dict[str, Any] = {}
    if scenes is None:
        classes, of = set(range(len(names))), PUBLISHED_CLASSES
        result["note"] = (
            f"Broden's scene labels (c_scene.csv) are missing: right labels are counted over all "
            f"classes, and divided by the published number of classes, {PUBLISHED_CLASSES}"
        )
    else:
        classes = set(places_to_broden(names, scenes, "normalised"))
        of = len(classes)
    for matching in MATCHINGS:
        hits = _hits(rows, names, classes, matching, 1)
        result[matching] = _accuracy("top1", hits, of, resampling)
        if set(TOP_COLUMNS) <= set(rows):
            hits = _hits(rows, names, classes, matching, TOP)
            result[matching] |= _accuracy("top5", hits, of, resampling)
        else:
            reason = f"there are fewer than {TOP} labels per unit"
            result[matching] |= {"top5": None, "top5_reason": reason}
    return result


def _hits(
    rows: pd.DataFrame, names: Sequence[str], classes: set[int], matching: str, top: int
) -> int:
    """Count the classes with a right label among their unit's top labels."""
    labels = rows[TOP_COLUMNS[:top]].to_numpy(dtype=object)
    return sum(
        match_key(names[i], matching) in {match_key(label, matching) for label in labels[i]}
        for i in classes
    )


def _accuracy(name: str, right: int, of: int, resampling: Resampling) -> dict[str, Any]:
    if not of:
        return {name: None, f"{name}_reason": "no class is among Broden's scenes"}
    # Without Broden's scenes more classes may be right than the published number of them.
    ends = share_interval(min(right, of), of, resampling.confidence)
    return {name: right / of, f"{name}_right": right, "classes": of, f"{name}_interval": ends}
