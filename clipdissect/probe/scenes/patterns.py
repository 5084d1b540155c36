"""Shapes and textures as masks of points."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

Points = Float[np.ndarray, "h w"]
Inside = Callable[[Points, Points], Bool[np.ndarray, "h w"]]


def _star(x: Points, y: Points) -> Bool[np.ndarray, "h w"]:
    # Five points: between a tip and a dent the edge is a straight line in polar coordinates.
    turn = np.abs((np.arctan2(x, -y) / (2 * np.pi) * 5) % 1 - 0.5) * 2  # 0 at a dent, 1 at a tip
    angle = turn * np.pi / 5
    tip, dent = 1.0, 0.42
    height = tip * np.sin(angle) + dent * np.sin(np.pi / 5 - angle) + 1e-12
    edge = tip * dent * np.sin(np.pi / 5) / height
    inside: Bool[np.ndarray, "h w"] = np.hypot(x, y) <= edge
    return inside


# Masks of points in units of the shape's radius, y downwards.
SHAPES: dict[str, Inside] = {
    "circle": lambda x, y: np.hypot(x, y) <= 0.9,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) <= 0.7,
    "triangle": lambda x, y: (y <= 0.5) & (np.abs(x) * 1.7320508 <= y + 1),
    "ring": lambda x, y: (np.hypot(x, y) <= 1) & (np.hypot(x, y) >= 0.6),
    "cross": lambda x, y: (
        (np.minimum(np.abs(x), np.abs(y)) <= 0.25) & (np.maximum(np.abs(x), np.abs(y)) <= 1)
    ),
    "star": _star,
}
# Masks of a texture's second colour, of points in units of its period.
TEXTURES: dict[str, Inside] = {
    "striped": lambda x, y: x % 1 < 0.5,
    "chequered": lambda x, y: (x % 1 < 0.5) ^ (y % 1 < 0.5),
    "polka-dotted": lambda x, y: np.hypot(x % 1 - 0.5, y % 1 - 0.5) < 0.3,
    "grid": lambda x, y: (x % 1 < 0.25) | (y % 1 < 0.25),
    "zigzagged": lambda x, y: (y + np.abs(x % 1 - 0.5)) % 1 < 0.5,
}


def points(size: int, x: float, y: float, unit: float, turn: float = 0) -> tuple[Points, Points]:
    """Return the coordinates of a square image's pixel centres around the origin `x`, `y`.

    `size`, `x`, `y` (from the left and top) and `unit` are in pixels, `turn` in degrees.
    """
    centres = np.arange(size) + 0.5
    right, down = np.meshgrid((centres - x) / unit, (centres - y) / unit)
    angle = np.deg2rad(turn)
    cos, sin = np.cos(angle), np.sin(angle)
    return right * cos + down * sin, down * cos - right * sin
