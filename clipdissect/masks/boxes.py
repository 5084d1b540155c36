"""Boxes around where a unit is active on an image.

Source: Describe-and-Dissect (TMLR 2025), "attention crops".
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import ndimage

Box = tuple[int, int, int, int]  # top, left, bottom, right; the last two exclusive

MOST = 4  # boxes an image
OVERLAP = 0.5  # largest intersection over union with a box that is kept
WHOLE = 0.8  # share of the map from which a box counts as the whole image
_TOUCHING = np.ones((3, 3))  # corners connect positions, too


def otsu_thresholds(rows: Float[np.ndarray, "rows n"]) -> Float[np.ndarray, " rows"]:
    """Return the value per row above which Otsu's two classes differ most, exactly.

    It is the largest value of the lower class; for a constant row its value, so that nothing is
    above it. NaN for rows with NaN.

    Source: Otsu, "A Threshold Selection Method from Gray-Level Histograms", 1979.
    """
    ordered = np.sort(rows.astype(np.float64), axis=1)
    count = ordered.shape[1]
    if count == 1:
        return ordered[:, 0]
    lower = np.arange(1, count)  # sizes of the lower class
    sums = ordered.cumsum(axis=1)
    total, below = sums[:, -1:], sums[:, :-1]
    difference = (total - below) / (count - lower) - below / lower
    between = lower * (count - lower) * difference**2
    splits = ordered[:, 1:] > ordered[:, :-1]  # equal values are of one class
    best = np.where(splits, between, -1.0).argmax(axis=1)
    best[~splits.any(axis=1)] = count - 1
    thresholds: Float[np.ndarray, " rows"] = ordered[np.arange(len(rows)), best]
    thresholds[np.isnan(rows).any(axis=1)] = np.nan
    return thresholds


def active_boxes(activation: Float[np.ndarray, "h w"], threshold: float) -> list[Box]:
    """Return boxes around the regions above the threshold, by their largest activation.

    A box that nearly is the whole map, or overlaps one before it, is left out; at most `MOST` stay.
    """
    regions, count = ndimage.label(activation > threshold, _TOUCHING)
    if not count:
        return []
    peaks = ndimage.maximum(activation, regions, np.arange(1, count + 1))
    found = [
        (rows.start, columns.start, rows.stop, columns.stop)
        for rows, columns in ndimage.find_objects(regions)
    ]
    kept: list[Box] = []
    for number in np.argsort(-np.asarray(peaks), kind="stable"):
        box = found[number]
        is_whole = area(box) >= WHOLE * activation.size
        if not is_whole and all(overlap(box, other) <= OVERLAP for other in kept):
            kept.append(box)
    return kept[:MOST]


def area(box: Box) -> int:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def overlap(first: Box, second: Box) -> float:
    """Return the intersection over union of two boxes."""
    tops, lefts, bottoms, rights = zip(first, second, strict=True)
    shared = area((max(tops), max(lefts), min(bottoms), min(rights)))
    return shared / (area(first) + area(second) - shared)
