"""Eleven basic colours: how they are painted, and what a pixel's colour is called."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, UInt8

# What things are painted with; each is called by its own name, also a few shades off.
PALETTE: dict[str, tuple[int, int, int]] = {
    "black": (22, 22, 22), "white": (238, 238, 238), "grey": (128, 128, 128),
    "red": (214, 32, 32), "orange": (240, 140, 24), "yellow": (236, 222, 44),
    "green": (44, 160, 60), "blue": (40, 84, 216), "purple": (134, 52, 190),
    "pink": (236, 116, 178), "brown": (122, 72, 26),
}  # fmt: skip
NAMES = tuple(PALETTE)
# Degrees of hue at which a colour ends and the next begins.
_HUES = ((15, "red"), (45, "orange"), (70, "yellow"), (170, "green"), (260, "blue"),
         (300, "purple"), (345, "pink"), (361, "red"))  # fmt: skip


def name_colours(pixels: UInt8[np.ndarray, "h w 3"]) -> Int[np.ndarray, "h w"]:
    """The number of each pixel's colour in `NAMES`.

    By brightness and saturation first (black, white, grey), then by hue; dark orange is brown and
    pale red is pink.
    """
    rgb = pixels.astype(np.float64)
    most, least = rgb.max(-1), rgb.min(-1)
    saturation = (most - least) / np.maximum(most, 1)
    hue = _hue(rgb, most, most - least)
    number = np.empty(hue.shape, dtype=np.int64)
    for end, name in reversed(_HUES):
        number[hue < end] = NAMES.index(name)
    is_red = number == NAMES.index("red")
    number[(hue >= 10) & (hue < 45) & (most < 158)] = NAMES.index("brown")
    number[is_red & (saturation < 0.55) & (most >= 178)] = NAMES.index("pink")
    pale = saturation < 0.2
    number[pale & (most < 204)] = NAMES.index("grey")
    number[pale & (most >= 204)] = NAMES.index("white")
    number[most < 51] = NAMES.index("black")
    return number


def _hue(rgb: np.ndarray, most: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Hue in degrees, 0 to 360; 0 of greys."""
    red, green, blue = np.moveaxis(rgb, -1, 0)
    by = np.maximum(spread, 1e-9)
    sextant = np.select(
        [most == red, most == green],
        [((green - blue) / by) % 6, (blue - red) / by + 2],
        (red - green) / by + 4,
    )
    degrees: np.ndarray = np.where(spread > 0, 60 * sextant, 0.0)
    return degrees
