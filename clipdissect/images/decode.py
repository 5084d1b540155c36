"""Decode images of any format to 8-bit RGB."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

import numpy as np
import PIL
import torch
from jaxtyping import Float
from PIL import ExifTags, Image, features
from PIL.Image import Transpose
from torch import Tensor


@dataclass(frozen=True)
class EncodedJpeg:
    """An RGB or grey JPEG with its EXIF orientation (1: as stored), for `decode_jpegs`."""

    data: bytes
    tag: int = 1


# An image: PIL, with `decode=fast` uint8 `[3, h, w]`, and with `decode=gpu` perhaps undecoded.
Picture = Image.Image | Tensor | EncodedJpeg

DECODE = ("pil", "fast", "gpu")
ORIENTATION = ("ignore", "apply")
_FORMATS = "avif bmp gif jfif jp2 jpeg jpg pgm png ppm tif tiff webp"
SUFFIXES = frozenset(f".{name}" for name in _FORMATS.split())
_JPEG = b"\xff\xd8\xff"
# Keys of `Image.info` that may hold an orientation; TIFFs are turned by Pillow.
_TAGGED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
# EXIF orientation to PIL's operation; and for tensors, whether to swap height and width, and the
# axes to flip afterwards.
_TURNS: dict[int, tuple[Transpose, bool, tuple[int, ...]]] = {
    2: (Transpose.FLIP_LEFT_RIGHT, False, (-1,)),
    3: (Transpose.ROTATE_180, False, (-2, -1)),
    4: (Transpose.FLIP_TOP_BOTTOM, False, (-2,)),
    5: (Transpose.TRANSPOSE, True, ()),
    6: (Transpose.ROTATE_270, True, (-1,)),
    7: (Transpose.TRANSVERSE, True, (-2, -1)),
    8: (Transpose.ROTATE_90, True, (-2,)),
}


@functools.cache
def decoder_version(decode: str = "pil") -> str:
    """Return the versions of the libraries that pixels depend on, for cache keys."""
    versions = f"Pillow {PIL.__version__}, libjpeg {features.version('jpg')}"
    turbo = features.version_feature("libjpeg_turbo")
    versions += f" turbo {turbo}" if turbo else ""
    if decode != "pil":  # CPU and GPU builds have the same decoder
        versions += f", torchvision {version('torchvision').partition('+')[0]}"
    if decode == "gpu":
        versions += f", nvJPEG of CUDA {torch.version.cuda}"
    return versions


class UnreadableImage(Exception):
    """Decoding error; `transient` if a retry may succeed (permissions, network disk)."""

    def __init__(self, reason: str, transient: bool = False) -> None:
        super().__init__(reason, transient)
        self.reason, self.transient = reason, transient


def is_transient(error: Exception) -> bool:
    """Return whether the system failed to read, rather than the decoder."""
    return isinstance(error, OSError) and error.errno is not None


def unreadable(error: Exception, source: object = None) -> UnreadableImage:
    """Convert an error that occurred while reading `source` to an UnreadableImage."""
    reason = str(error) or type(error).__name__
    if isinstance(source, Path):
        reason = reason.replace(str(source), source.name)
    elif isinstance(source, io.BytesIO):
        reason = reason.replace(repr(source), "the image")
    return UnreadableImage(reason, is_transient(error))


def open_picture(path: Path, decode: str = "pil", orientation: str = "ignore") -> Picture:
    """Decode a file to 8-bit RGB, or raise an UnreadableImage; see `decode_picture`."""
    if decode == "pil":
        return open_rgb(path, orientation)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(error, path) from error
    return decode_picture(data, decode, orientation)


def decode_picture(data: bytes, decode: str = "pil", orientation: str = "ignore") -> Picture:
    """Decode bytes to 8-bit RGB, or raise an UnreadableImage.

    Args:
        data: the file's bytes.
        decode: `pil`, `fast`: RGB and grey JPEGs to a tensor `[3, h, w]` by torchvision, or `gpu`:
            they are left to `decode_jpegs`.
        orientation: `apply` or `ignore` the EXIF orientation; the result has no tag.
    """
    picture: Tensor | EncodedJpeg | None = None
    if decode == "fast":
        picture = fast_jpeg(data)
    elif decode == "gpu" and _is_rgb_or_grey_jpeg(data):
        picture = EncodedJpeg(data)
    if picture is None:
        return open_rgb(io.BytesIO(data), orientation)
    tag = orientation_of(io.BytesIO(data)) if orientation == "apply" else 1
    return EncodedJpeg(data, tag) if isinstance(picture, EncodedJpeg) else _turned(picture, tag)


def _turned(picture: Tensor, tag: int) -> Tensor:
    if tag not in _TURNS:
        return picture
    _, swap, flips = _TURNS[tag]
    return (picture.transpose(-2, -1) if swap else picture).flip(flips).contiguous()


def decode_jpegs(
    images: Sequence[EncodedJpeg], device: torch.device
) -> list[Tensor | UnreadableImage]:
    """Decode JPEGs to uint8 `[3, h, w]` on a device, all at once; on CUDA by nvJPEG.

    What that can't decode is decoded by PIL.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    data = [torch.frombuffer(bytearray(image.data), dtype=torch.uint8) for image in images]
    try:
        decoded = decode_jpeg(data, ImageReadMode.RGB, device=device) if data else []
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # of one of them, and it doesn't say which
        if len(images) > 1:
            return [picture for image in images for picture in decode_jpegs([image], device)]
        return [_by_pil(images[0], device)]
    return [_turned(picture, image.tag) for picture, image in zip(decoded, images, strict=True)]


def _by_pil(image: EncodedJpeg, device: torch.device) -> Tensor | UnreadableImage:
    try:
        pixels = torch.from_numpy(np.array(to_pil(image)))
    except UnreadableImage as error:
        return error
    return pixels.permute(2, 0, 1).to(device)


def _is_rgb_or_grey_jpeg(data: bytes) -> bool:
    if not data.startswith(_JPEG):
        return False
    try:
        with Image.open(io.BytesIO(data)) as image:  # reads the header alone
            return image.mode in ("RGB", "L")
    except Exception:  # decoding will report the error
        return False


def orientation_of(source: Path | IO[bytes]) -> int:
    """Return the EXIF orientation in a header, 1 to 8; 1 if there is none or no image."""
    try:
        if isinstance(source, Path):
            with source.open("rb", buffering=0) as file:
                return orientation_of(file)
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
    except Exception:  # decoding will report the error
        return 1


def _is_untagged_jpeg(start: bytes) -> bool:
    """Return whether a JPEG has no EXIF or XMP segment before the image."""
    offset = 2 if start.startswith(_JPEG) else len(start)
    while offset + 4 <= len(start) and start[offset] == 0xFF:
        marker = start[offset + 1]
        if marker == 0xE1:  # APP1: EXIF or XMP
            return False
        if not 0xE0 <= marker <= 0xEF and marker != 0xFE:  # neither APPn nor a comment
            return True
        offset += 2 + int.from_bytes(start[offset + 2 : offset + 4], "big")
    return False


def tag_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1 to 8; 1 if unreadable."""
    if not any(key in image.info for key in _TAGGED):
        return 1
    try:
        tag = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF raises any exception; the pixels may be intact
        return 1
    return int(tag) if tag in _TURNS else 1


def fast_jpeg(data: bytes) -> Tensor | None:
    """Decode a JPEG as uint8 `[3, h, w]`, grey repeated; None for other or damaged files."""
    if not data.startswith(_JPEG):
        return None
    from torchvision.io import decode_jpeg

    try:
        pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    except RuntimeError:  # PIL has a better message, or can read it
        return None
    # CMYK goes to PIL, which knows that Adobe inverts it.
    if pixels.shape[0] == 1:
        return pixels.expand(3, -1, -1).contiguous()
    return pixels if pixels.shape[0] == 3 else None


def to_pil(picture: Picture) -> Image.Image:
    """Return a picture as PIL image; raise an UnreadableImage where it is damaged."""
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, EncodedJpeg):
        return open_rgb(io.BytesIO(picture.data), "apply" if picture.tag != 1 else "ignore")
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy())


def open_rgb(source: Path | io.BytesIO, orientation: str = "ignore") -> Image.Image:
    """Decode a file to 8-bit RGB with PIL, or raise an UnreadableImage; see `to_rgb`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # oddities of the format, which users can't change
            with Image.open(source) as image:
                image.seek(0)
                image.load()
                return upright_rgb(image, orientation)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise any exception on damaged files
        raise unreadable(error, source) from error


def upright_rgb(image: Image.Image, orientation: str = "ignore") -> Image.Image:
    """Return an image as 8-bit RGB without EXIF tag, turned by the tag with `apply`."""
    rgb = to_rgb(image)
    if not any(key in image.info for key in _TAGGED):
        return rgb
    # Without a tag, so that a network's transform sees the same pixels from both decoders.
    untagged = rgb.copy()
    for key in _TAGGED:
        untagged.info.pop(key, None)
    tag = tag_of(image) if orientation == "apply" else 1
    return untagged.transpose(_TURNS[tag][0]) if tag in _TURNS else untagged


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB: transparency on white, deep greys scaled, greyscale repeated."""
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
    # PIL's conversion clips 16-bit and float greys to 0..255, which turns most of them white.
    grey = np.asarray(image, dtype=np.float64)
    if _is_unsigned(image):
        grey = np.where(grey < 0, grey + 2.0**32, grey)  # Pillow reads them as signed
    levels = np.nan_to_num(grey / _full_scale(image, grey) * 255, posinf=255, neginf=0)
    return Image.fromarray(levels.clip(0, 255).round().astype(np.uint8), "L").convert("RGB")


def _full_scale(image: Image.Image, grey: Float[np.ndarray, "h w"]) -> float:
    """Return the value of white."""
    # Some versions of Pillow open 16-bit PNGs and PGMs as mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return 65535
    # 32-bit integers and floats specify no white: use the first scale that no value exceeds.
    largest = float(grey.max(initial=0, where=np.isfinite(grey)))
    largest_integer = 2.0**32 - 1 if _is_unsigned(image) else 2.0**31 - 1
    scales = (*([1.0] if image.mode == "F" else []), 255.0, 65535.0, largest_integer)
    return next((scale for scale in scales if largest <= scale), largest)


def _is_unsigned(image: Image.Image) -> bool:
    """Return whether a 32-bit TIFF is unsigned, its default (tag 339, SampleFormat)."""
    tags = getattr(image, "tag_v2", None)
    return image.mode == "I" and tags is not None and tuple(tags.get(339, (1,))) == (1,)
