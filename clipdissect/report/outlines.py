"""Outlines of regions, as paths of SVG."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Float

BOX = 100  # a path's coordinates are whole numbers from 0 to this


def outline(values: Float[np.ndarray, "h w"], threshold: float) -> str:
    """The region of a map above a threshold, between the positions interpolated linearly.

    Each position stands for the middle of its part of the image; the map goes on unchanged from
    there to the edge.

    Args:
        values: a unit's activation at every position.
        threshold: what the region exceeds.

    Returns:
        Closed parts of an SVG path in a box of 100 x 100, holes among them (fill rule `evenodd`);
        empty where no position exceeds the threshold.
    """
    from contourpy import FillType, contour_generator

    if not values.max() > threshold:
        return ""
    height, width = values.shape
    filler = contour_generator(
        _places(width), _places(height), np.pad(values, 1, mode="edge"),
        fill_type=FillType.OuterOffset,
    )  # fmt: skip
    above = float(np.nextafter(np.float64(threshold), np.inf))
    found = filler.filled(above, float(values.max()) + 1)
    parts: list[str] = []
    for points, starts in zip(found[0], found[1], strict=True):
        assert points is not None and starts is not None  # of chunked contours they may be
        parts += [_closed(points[start:stop]) for start, stop in pairwise(starts)]
    return "".join(parts)


def _places(count: int) -> Float[np.ndarray, " places"]:
    """Where positions lie, and the two edges."""
    middles = (np.arange(count) + 0.5) / count
    return np.concatenate([[0.0], middles, [1.0]]) * BOX


def _closed(points: Float[np.ndarray, "points 2"]) -> str:
    """A closed line in whole numbers; empty where rounding leaves nothing of it."""
    whole = np.rint(points[:-1]).astype(int)
    kept = [p for p, before in zip(whole, np.roll(whole, 1, axis=0), strict=True)
            if (p != before).any()]  # fmt: skip
    corners = [p for i, p in enumerate(kept) if _turn(kept[i - 1], p, kept[(i + 1) % len(kept)])]
    if len(corners) < 3:
        return ""
    return "M" + "L".join(f"{x} {y}" for x, y in corners) + "Z"


def _turn(before: np.ndarray, here: np.ndarray, after: np.ndarray) -> int:
    """Zero where three points lie on a line."""
    (ax, ay), (bx, by) = here - before, after - here
    return int(ax * by - ay * bx)
