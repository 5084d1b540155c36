"""Reading image files of any kind as plain RGB."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = frozenset(
    [
        ".bmp",
        ".gif",
        ".jfif",
        ".jpeg",
        ".jpg",
        ".pgm",
        ".png",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
        ".avif",
        ".jp2",
    ]
)


class UnreadableImage(Exception):
    """An image that couldn't be decoded.

    Args:
        reason: what the decoder said.
        passing: whether another try may succeed (permissions, a network disk).
    """

    def __init__(self, reason: str, passing: bool = False) -> None:
        super().__init__(reason, passing)
        self.reason, self.passing = reason, passing


def open_rgb(path: Path) -> Image.Image:
    """Decode a file to 8-bit RGB: see `to_rgb`. Orientation tags are not applied.

    Raises:
        UnreadableImage: not an image, cut short, or not to be opened.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the formats' oddities are not the user's to mend
            with Image.open(path) as image:
                image.seek(0)
                image.load()
                return to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything on damaged files
        passing = isinstance(error, OSError) and error.errno is not None
        reason = str(error).replace(str(path), path.name) or type(error).__name__
        raise UnreadableImage(reason, passing) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: transparency on white, 16-bit scaled to 8, greyscale repeated, CMYK converted.

    Of an animation, the frame that is loaded.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_deep(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layers).convert("RGB")
    return image.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    # PIL's own conversion clips 16-bit and float greys to 0..255, which turns most of them white.
    grey = np.asarray(image, dtype=np.float64)
    if image.mode != "F":
        grey = grey / 257
    elif grey.max(initial=0) <= 1:
        grey = grey * 255
    bytes_ = np.nan_to_num(grey).clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(bytes_, "L").convert("RGB")
