"""Outlines of regions as SVG paths."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Float

BOX = 100  # coordinates are integers from 0 to this


def outline(values: Float[np.ndarray, "h w"], threshold: float) -> str:
    """Return the outline of where a map exceeds a threshold, as an SVG path in a 100 x 100 box.

    The map is interpolated linearly and extended to the edges; holes are subpaths (`evenodd`).
    """
    from contourpy import FillType, contour_generator

    if not values.max() > threshold:
        return ""
    height, width = values.shape
    padded = np.pad(values, 1, mode="edge")
    contours = contour_generator(
        _coordinates(width), _coordinates(height), padded, fill_type=FillType.OuterOffset
    )
    # The region must exceed the threshold, and contourpy includes its lower level.
    above = float(np.nextafter(np.float64(threshold), np.inf))
    filled = contours.filled(above, float(values.max()) + 1)
    parts: list[str] = []
    for points, starts in zip(filled[0], filled[1], strict=True):
        assert points is not None and starts is not None  # None for chunked contours only
        parts += [_closed_path(points[start:stop]) for start, stop in pairwise(starts)]
    return "".join(parts)


def _coordinates(count: int) -> Float[np.ndarray, " points"]:
    """Return the positions' centres, and both edges."""
    centres = (np.arange(count) + 0.5) / count
    return np.concatenate([[0.0], centres, [1.0]]) * BOX


def _closed_path(points: Float[np.ndarray, "points 2"]) -> str:
    """Return a closed subpath in integers, without collinear points; empty if degenerate."""
    points = np.rint(points[:-1]).astype(int)
    points = points[(points != np.roll(points, 1, axis=0)).any(1)]
    before = points - np.roll(points, 1, axis=0)
    after = np.roll(points, -1, axis=0) - points
    corners = points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    if len(corners) < 3:
        return ""
    return "M" + "L".join(f"{x} {y}" for x, y in corners) + "Z"
