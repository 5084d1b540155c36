"""Reading images of any kind as plain RGB."""

from __future__ import annotations

import functools
import io
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, features
from torch import Tensor

# What a probe's images come as: PIL, or uint8 `[3, h, w]` where decoding is fast.
Picture = Image.Image | Tensor

DECODE = ("pil", "fast")
_JPEG = b"\xff\xd8\xff"

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


@functools.cache
def decoder_version(decode: str = "pil") -> str:
    """The libraries that pixels depend on, with their versions, for keys.

    Args:
        decode: `pil`: Pillow and its libjpeg; `fast`: also torchvision, which brings its own.
    """
    used = f"Pillow {PIL.__version__}, libjpeg {features.version('jpg')}"
    turbo = features.version_feature("libjpeg_turbo")
    used += f" turbo {turbo}" if turbo else ""
    if decode == "fast":  # the builds for CPUs and GPUs bring the same
        used += f", torchvision {version('torchvision').partition('+')[0]}"
    return used


class UnreadableImage(Exception):
    """An image that couldn't be decoded.

    Args:
        reason: what the decoder said.
        passing: whether another try may succeed (permissions, a network disk).
    """

    def __init__(self, reason: str, passing: bool = False) -> None:
        super().__init__(reason, passing)
        self.reason, self.passing = reason, passing


def open_picture(path: Path, decode: str = "pil") -> Picture:
    """Decode a file to 8-bit RGB; see `decode_picture`.

    Raises:
        UnreadableImage: not an image, cut short, or not to be opened.
    """
    if decode == "pil":
        return open_rgb(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(error, path) from error
    return decode_picture(data, decode)


def decode_picture(data: bytes, decode: str = "pil") -> Picture:
    """Decode an image's bytes to 8-bit RGB: a PIL image, or a tensor `[3, h, w]` with `fast`.

    `fast` decodes plain JPEGs (RGB and grey) with torchvision, everything else with PIL.

    Raises:
        UnreadableImage: not an image, or cut short.
    """
    picture = fast_jpeg(data) if decode == "fast" else None
    return open_rgb(io.BytesIO(data)) if picture is None else picture


def fast_jpeg(data: bytes) -> Tensor | None:
    """A JPEG as uint8 `[3, h, w]`, grey repeated; None of what else it is, or where it is damaged.

    CMYK is left to PIL, which knows that Adobe stores it inverted.
    """
    if not data.startswith(_JPEG):
        return None
    from torchvision.io import decode_jpeg

    try:
        pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    except RuntimeError:  # PIL says better what is wrong with it, or reads it all the same
        return None
    if pixels.shape[0] == 1:
        return pixels.expand(3, -1, -1).contiguous()
    return pixels if pixels.shape[0] == 3 else None


def to_pil(picture: Picture) -> Image.Image:
    """A picture as a PIL image."""
    if isinstance(picture, Image.Image):
        return picture
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())


def open_rgb(source: Path | io.BytesIO) -> Image.Image:
    """Decode a file to 8-bit RGB with PIL: see `to_rgb`. Orientation tags are not applied.

    Raises:
        UnreadableImage: not an image, cut short, or not to be opened.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the formats' oddities are not the user's to mend
            with Image.open(source) as image:
                image.seek(0)
                image.load()
                return to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything on damaged files
        raise unreadable(error, source) from error


def unreadable(error: Exception, source: object = None) -> UnreadableImage:
    """What to raise for an image that couldn't be opened or decoded because of `error`."""
    passing = isinstance(error, OSError) and error.errno is not None
    reason = str(error) or type(error).__name__
    if isinstance(source, Path):
        reason = reason.replace(str(source), source.name)
    elif isinstance(source, io.BytesIO):
        reason = reason.replace(repr(source), "the image")
    return UnreadableImage(reason, passing)


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
