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
    """Return JSON-able accuracies over the classes whose name is a Broden scene, by matching.

    `released` compares names as the published code did, for which `apartment_building-outdoor` and
    `apartment_building/outdoor` differ; `normalised` treats blanks and `_ - /` as equal. A label is
    right in `top5` if any of the unit's five is; the released notebook counts a hit twice where a
    Broden label is listed twice.

    Args:
        rows: the units' descriptions, one row per class, as of `units.rows_of`.
        names: the 365 classes.
        scenes: Broden's scene labels. Without them right labels are counted over all classes, and
            the denominator is the paper's 267; the result is the same if all labels are scenes.
        resampling: settings of the intervals.

    Source: Table 2.
    """
    result: dict[str, Any] = {}
    if scenes is None:
        classes, of = set(range(len(names))), PUBLISHED_CLASSES
        result["note"] = (
            f"Broden's scene labels (c_scene.csv) aren't here: right labels are counted over all "
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
            reason = f"there are fewer than {TOP} labels a unit"
            result[matching] |= {"top5": None, "top5_reason": reason}
    return result


def _hits(
    rows: pd.DataFrame, names: Sequence[str], classes: set[int], matching: str, top: int
) -> int:
    """Count classes with a right label among their unit's top ones."""
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
