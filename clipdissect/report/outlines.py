"""Outlines of the active regions of maps as SVG paths, and their activations as text."""

from __future__ import annotations

import re
from itertools import pairwise
from string import ascii_lowercase
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

BOX = 100  # coordinates of outlines are integers from 0 to this
LEVELS = 9  # of activations above 0
_MAPS_AT_ONCE = 4096
_RUN = re.compile("0{1,26}")


def outlines(maps: Shaped[np.ndarray, "maps h w"], threshold: float) -> list[str]:
    """Return the outlines of where maps exceed a threshold, as SVG paths in a 100 x 100 box.

    Maps are interpolated linearly and extended to the edges; holes are subpaths (`evenodd`).
    """
    paths = [""] * len(maps)
    exceed = np.flatnonzero(maps.max((1, 2)) > threshold)
    for start in range(0, len(exceed), _MAPS_AT_ONCE):
        numbers = exceed[start : start + _MAPS_AT_ONCE]
        for number, path in zip(numbers.tolist(), _paths(maps[numbers], threshold), strict=True):
            paths[number] = path
    return paths


def heat_maps(
    maps: Float[np.ndarray, "maps h w"], highest: Float[np.ndarray, " maps"]
) -> list[str]:
    """Return activations above 0 in ninths of the highest, rounded up, for a page's scripts.

    Row by row, a digit stands for a position, a letter for as many positions at 0 (`c`: 3).
    """
    size = maps.shape[1] * maps.shape[2]
    levels = np.ceil(LEVELS * maps / np.maximum(highest, np.finfo(np.float32).tiny)[:, None, None])
    digits = (levels.clip(0, LEVELS).astype(np.uint8) + ord("0")).tobytes().decode()
    texts = (digits[start : start + size] for start in range(0, len(digits), size))
    return [_RUN.sub(lambda run: ascii_lowercase[len(run[0]) - 1], text) for text in texts]


def _paths(maps: Shaped[np.ndarray, "maps h w"], threshold: float) -> list[str]:
    """Contour all maps at once, one below the other: calls of contourpy take most of the time."""
    from contourpy import FillType, contour_generator

    count, height, width = maps.shape
    rows = np.append(_positions(height), height + 0.5)
    stack = np.full((count, len(rows), width + 2), np.nan)  # rows of NaN separate the maps
    stack[:, :-1] = np.pad(maps, ((0, 0), (1, 1), (1, 1)), mode="edge")
    below = np.arange(count)[:, None] * (height + 1) + rows
    contours = contour_generator(
        _positions(width),
        below.reshape(-1),
        stack.reshape(-1, width + 2),
        fill_type=FillType.ChunkCombinedOffset,
    )
    # The region must exceed the threshold, and contourpy includes its lower level.
    above = float(np.nextafter(np.float64(threshold), np.inf))
    filled: Any = contours.filled(above, float(np.nanmax(stack)) + 1)
    (points,), (starts,) = filled  # one chunk
    number = (points[:, 1] + 0.25) // (height + 1)  # rounding may put edges above the map
    points[:, 1] -= number * (height + 1)
    # Halves, up to the error of contourpy, are rounded alike wherever a map lies in the stack.
    scaled = (points * BOX / (width, height)).round(6)
    x, y = np.rint(scaled).astype(int).T.tolist()
    paths = [""] * count
    for start, stop in pairwise(starts.tolist()):
        corners = zip(x[start : stop - 1], y[start : stop - 1], strict=True)
        paths[int(number[start])] += _closed_path([*corners])
    return paths


def _positions(count: int) -> Float[np.ndarray, " points"]:
    """Return the centres of positions of size 1, and both edges."""
    return np.concatenate([[0.0], np.arange(count) + 0.5, [count]])


def _closed_path(points: list[tuple[int, int]]) -> str:
    """Return a closed subpath without collinear points; empty if degenerate."""
    pairs = zip(points, points[-1:] + points, strict=False)
    points = [point for point, last in pairs if point != last]
    around = zip(points[-1:] + points, points, points[1:] + points[:1], strict=False)
    corners = [
        f"{x} {y}"
        for (x0, y0), (x, y), (x1, y1) in around
        if (x - x0) * (y1 - y) != (x1 - x) * (y - y0)
    ]
    return "M" + "L".join(corners) + "Z" if len(corners) > 2 else ""
