"""Reading images of any kind as plain RGB."""

from __future__ import annotations

import functools
import io
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import IO

import numpy as np
import PIL
import torch
from jaxtyping import Float
from PIL import ExifTags, Image, features
from torch import Tensor

# What a probe's images come as: PIL, or uint8 `[3, h, w]` where decoding is fast.
Picture = Image.Image | Tensor

DECODE = ("pil", "fast")
ORIENTATION = ("ignore", "apply")
_JPEG = b"\xff\xd8\xff"
# Where Pillow keeps an orientation.
_TAGGED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
# The same for tensors: whether height and width change places, and the axes to flip afterwards.
_FLIPS = {2: (False, (-1,)), 3: (False, (-2, -1)), 4: (False, (-2,)), 5: (True, ()),
          6: (True, (-1,)), 7: (True, (-2, -1)), 8: (True, (-2,))}  # fmt: skip

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
        transient: whether another try may succeed (permissions, a network disk).
    """

    def __init__(self, reason: str, transient: bool = False) -> None:
        super().__init__(reason, transient)
        self.reason, self.transient = reason, transient


def open_picture(path: Path, decode: str = "pil", orientation: str = "ignore") -> Picture:
    """Decode a file to 8-bit RGB; see `decode_picture`.

    Raises:
        UnreadableImage: not an image, cut short, or not to be opened.
    """
    if decode == "pil":
        return open_rgb(path, orientation)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(error, path) from error
    return decode_picture(data, decode, orientation)


def decode_picture(data: bytes, decode: str = "pil", orientation: str = "ignore") -> Picture:
    """Decode an image's bytes to 8-bit RGB: a PIL image, or a tensor `[3, h, w]` with `fast`.

    `fast` decodes plain JPEGs (RGB and grey) with torchvision, everything else with PIL.

    Args:
        data: the file's bytes.
        decode: `pil` or `fast`.
        orientation: `apply` turns the image as its EXIF orientation says, `ignore` doesn't; the
            result carries no tag either way, so that a network's own transform sees the same
            pixels from both decoders. Pillow always turns TIFFs.

    Raises:
        UnreadableImage: not an image, or cut short.
    """
    picture = fast_jpeg(data) if decode == "fast" else None
    if picture is None:
        return open_rgb(io.BytesIO(data), orientation)
    return _turned(picture, orientation_of(io.BytesIO(data))) if orientation == "apply" else picture


def orientation_of(source: Path | IO[bytes]) -> int:
    """The EXIF orientation in an image's header, 1 to 8; 1 where there is none or no image.

    Decodes no pixels. TIFFs count as upright, since Pillow turns them while decoding.
    """
    try:
        if isinstance(source, Path):
            with source.open("rb", buffering=0) as opened:
                return orientation_of(opened)
        start = source.read(4096)
        if _is_untagged_jpeg(start):  # the usual case, without Pillow's overhead
            return 1
        source.seek(-len(start), io.SEEK_CUR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(source) as image:
                return tag_of(image)
    except MemoryError:
        raise
    except Exception:  # decoding says what is wrong with the file
        return 1


def _is_untagged_jpeg(start: bytes) -> bool:
    """Whether a JPEG's first bytes show that the image comes without EXIF or XMP before it."""
    place = 2 if start.startswith(_JPEG) else len(start)
    while place + 4 <= len(start) and start[place] == 0xFF:
        kind = start[place + 1]
        if kind == 0xE1:
            return False
        if not 0xE0 <= kind <= 0xEF and kind != 0xFE:  # neither an application's nor a comment
            return True
        place += 2 + int.from_bytes(start[place + 2 : place + 4], "big")
    return False


def tag_of(image: Image.Image) -> int:
    """The EXIF orientation of an opened image, 1 to 8; 1 where there is none that can be read."""
    if not any(key in image.info for key in _TAGGED):
        return 1
    try:
        tag = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF raises anything, and the pixels may be whole
        return 1
    return int(tag) if tag in _TURNS else 1


def _turned(picture: Tensor, tag: int) -> Tensor:
    """A picture `[3, h, w]` as an orientation says that it is to be seen."""
    swap, flips = _FLIPS.get(tag, (False, ()))
    return (picture.transpose(-2, -1) if swap else picture).flip(flips).contiguous()


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


def open_rgb(source: Path | io.BytesIO, orientation: str = "ignore") -> Image.Image:
    """Decode a file to 8-bit RGB with PIL: see `to_rgb`; and `decode_picture` for orientations.

    Raises:
        UnreadableImage: not an image, cut short, or not to be opened.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the formats' oddities are not the user's to mend
            with Image.open(source) as image:
                image.seek(0)
                image.load()
                return upright_rgb(image, orientation)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise anything on damaged files
        raise unreadable(error, source) from error


def upright_rgb(image: Image.Image, orientation: str = "ignore") -> Image.Image:
    """An image as 8-bit RGB, turned by its tag with `apply`; the result carries no tag.

    The image itself stays as it is.
    """
    rgb = to_rgb(image)
    if not any(key in image.info for key in _TAGGED):
        return rgb
    plain = rgb.copy()
    for key in _TAGGED:
        plain.info.pop(key, None)
    tag = tag_of(image) if orientation == "apply" else 1
    return plain.transpose(_TURNS[tag]) if tag in _TURNS else plain


def unreadable(error: Exception, source: object = None) -> UnreadableImage:
    """What to raise for an image that couldn't be opened or decoded because of `error`."""
    transient = isinstance(error, OSError) and error.errno is not None
    reason = str(error) or type(error).__name__
    if isinstance(source, Path):
        reason = reason.replace(str(source), source.name)
    elif isinstance(source, io.BytesIO):
        reason = reason.replace(repr(source), "the image")
    return UnreadableImage(reason, transient)


def to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: transparency on white, deep greys scaled, greyscale repeated, CMYK converted.

    Of an animation, the frame that is loaded. Greys of more than 8 bits are divided by their full
    scale: 65,535 for 16-bit formats. 32-bit integers and floats don't say theirs, so it is the
    first of (1 for floats,) 255, 65,535 and the type's largest integer that no value exceeds.
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
    if _is_unsigned(image):
        grey = np.where(grey < 0, grey + 2.0**32, grey)  # Pillow reads them as signed
    levels = np.nan_to_num(grey / _full_scale(image, grey) * 255, posinf=255, neginf=0)
    return Image.fromarray(levels.clip(0, 255).round().astype(np.uint8), "L").convert("RGB")


def _full_scale(image: Image.Image, grey: Float[np.ndarray, "h w"]) -> float:
    """The value that is white."""
    # 16-bit PNGs and PGMs come as mode I from some versions of Pillow.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return 65535
    largest = float(grey.max(initial=0, where=np.isfinite(grey)))
    whole = 2.0**32 - 1 if _is_unsigned(image) else 2.0**31 - 1
    scales = (*([1.0] if image.mode == "F" else []), 255.0, 65535.0, whole)
    return next((scale for scale in scales if largest <= scale), largest)


def _is_unsigned(image: Image.Image) -> bool:
    """Whether a 32-bit TIFF holds unsigned integers, its default (tag 339, SampleFormat)."""
    tags = getattr(image, "tag_v2", None)
    return image.mode == "I" and tags is not None and tuple(tags.get(339, (1,))) == (1,)
