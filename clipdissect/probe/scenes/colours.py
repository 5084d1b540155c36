"""Eleven basic colours: their RGB values, and the name of a pixel's colour."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, UInt8

# Colours of painted things; `name_colours` recognises them, a few shades off too.
PALETTE: dict[str, tuple[int, int, int]] = {
    "black": (22, 22, 22),
    "white": (238, 238, 238),
    "grey": (128, 128, 128),
    "red": (214, 32, 32),
    "orange": (240, 140, 24),
    "yellow": (236, 222, 44),
    "green": (44, 160, 60),
    "blue": (40, 84, 216),
    "purple": (134, 52, 190),
    "pink": (236, 116, 178),
    "brown": (122, 72, 26),
}
NAMES = tuple(PALETTE)
# Upper limit of each colour's hue, in degrees.
_HUES = {
    15: "red",
    45: "orange",
    70: "yellow",
    170: "green",
    260: "blue",
    300: "purple",
    345: "pink",
    361: "red",
}


def name_colours(pixels: UInt8[np.ndarray, "h w 3"]) -> Int[np.ndarray, "h w"]:
    """Return the index in `NAMES` of each pixel's colour."""
    rgb = pixels.astype(np.float64)
    brightest, darkest = rgb.max(-1), rgb.min(-1)
    saturation = (brightest - darkest) / np.maximum(brightest, 1)
    hue = _hue(rgb, brightest, brightest - darkest)
    number = np.empty(hue.shape, dtype=np.int64)
    for end, name in reversed(_HUES.items()):
        number[hue < end] = NAMES.index(name)
    # Hue alone can't separate brown (dark orange) and pink (pale red).
    is_red = number == NAMES.index("red")
    number[(hue >= 10) & (hue < 45) & (brightest < 158)] = NAMES.index("brown")
    number[is_red & (saturation < 0.55) & (brightest >= 178)] = NAMES.index("pink")
    pale = saturation < 0.2
    number[pale & (brightest < 204)] = NAMES.index("grey")
    number[pale & (brightest >= 204)] = NAMES.index("white")
    number[brightest < 51] = NAMES.index("black")
    return number


def _hue(rgb: np.ndarray, brightest: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return the hue in degrees, 0 to 360; 0 for greys."""
    red, green, blue = np.moveaxis(rgb, -1, 0)
    divisor = np.maximum(spread, 1e-9)
    sextant = np.select(
        [brightest == red, brightest == green],
        [((green - blue) / divisor) % 6, (blue - red) / divisor + 2],
        (red - green) / divisor + 4,
    )
    degrees: np.ndarray = np.where(spread > 0, 60 * sextant, 0.0)
    return degrees
