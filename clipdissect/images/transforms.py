"""Apply PIL transforms to tensors, which decode and resize in half the time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from PIL import __version__ as pillow_version
from torch import Tensor

from clipdissect.images.decode import Picture, to_pil
from clipdissect.utils.hashing import Transform

log = logging.getLogger(__name__)

TensorTransform = Callable[[Tensor], Tensor]

PILLOW = int(pillow_version.partition(".")[0])
LIBRARIES = ("torchvision", "timm", "open_clip")
# Interpolation that torch computes as PIL does.
INTERPOLATIONS = ("bilinear", "bicubic")
# Steps that leave an RGB picture unchanged.
IDENTITIES = frozenset(["_convert_to_rgb", "Identity", "MaybeConvertMode", "RGB"])
TO_BYTES = frozenset(["MaybePILToTensor", "PILToTensor", "ToImage"])
TO_FLOAT = frozenset(["MaybeToTensor", "ToTensor"])
# Deterministic steps that don't depend on the origin of a tensor.
ON_TENSORS = frozenset(
    ["CenterCrop", "ConvertImageDtype", "Normalize", "Resize", "ToDtype", "ToPureTensor"]
)


def apply(transform: Transform, picture: Picture) -> Tensor:
    """Apply a transform to a PIL image or uint8 `[3, h, w]`; return `[channels, h, w]`.

    A tensor goes through `tensor_transform` if possible, else through PIL (logged once).
    """
    if isinstance(picture, Image.Image):
        return transform(picture.copy())
    on_tensors = _cached_transform(_ById(transform))
    return on_tensors(picture) if on_tensors else transform(to_pil(picture))


def steps_of(transform: Transform) -> list[tuple[str, Any]]:
    """Return a transform's steps and their names, empty for unknown libraries."""
    return [(_name(step), step) for step in _flatten(transform)]


def tensor_transform(transform: Transform) -> TensorTransform | None:
    """Convert a transform of PIL images to one of uint8 tensors `[3, h, w]`; None if unknown.

    Covers evaluation transforms of torchvision, timm and open_clip: resize, centre crop,
    scale, normalise. After resizing, at most 2 of 255 grey levels differ.
    """
    from torchvision.transforms import Compose

    steps: list[TensorTransform] = []
    named_steps = steps_of(transform)
    is_tensor = False
    for name, step in named_steps:
        converted = _convert_tensor_step(name, step) if is_tensor else _convert_pil_step(name, step)
        if converted is None:
            return None
        steps += converted
        is_tensor = is_tensor or name in TO_BYTES | TO_FLOAT
    chain: TensorTransform = Compose(steps)
    return chain if named_steps else None


@dataclass(frozen=True)
class _ById:
    """A cache key of a transform, hashable or not."""

    transform: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.transform is self.transform

    def __hash__(self) -> int:
        return id(self.transform)


@lru_cache(maxsize=32)
def _cached_transform(key: _ById) -> TensorTransform | None:
    on_tensors = tensor_transform(key.transform)
    worker = torch.utils.data.get_worker_info()
    if on_tensors is None and (worker is None or worker.id == 0):
        name = type(key.transform).__name__
        log.info("the transform %s isn't supported on tensors: using PIL, which is slower", name)
    return on_tensors


def _flatten(transform: Any) -> Iterator[Any]:
    if _name(transform) in ("Compose", "Sequential"):
        for step in getattr(transform, "transforms", transform):
            yield from _flatten(step)
    else:
        yield transform


def _name(step: Any) -> str:
    """Return a step's class or function name; empty for unknown libraries."""
    named = step if hasattr(step, "__qualname__") else type(step)
    library = str(getattr(named, "__module__", "")).partition(".")[0]
    is_container = isinstance(step, torch.nn.Sequential)
    return str(named.__qualname__) if library in LIBRARIES or is_container else ""


Converted = list[TensorTransform] | None  # None: unknown


def _convert_tensor_step(name: str, step: Any) -> Converted:
    """Convert a step that gets tensors in the original transform too."""
    if name in IDENTITIES | TO_BYTES | TO_FLOAT:
        return []
    return [step] if name in ON_TENSORS else None


def _convert_pil_step(name: str, step: Any) -> Converted:
    """Convert a step that works on PIL images, or converts them."""
    if name in IDENTITIES | TO_BYTES:
        return []
    if name in TO_FLOAT:
        return [_to_float]
    if name == "CenterCrop":
        return [_center_crop(step.size)]
    if name == "CenterCropOrPad":
        return _crop_or_pad(step)
    if name == "ImageClassification":
        return _preset(step)
    if name == "Resize":
        return _resize(step.size, step.interpolation, getattr(step, "max_size", None))
    return _keep_ratio(step) if name == "ResizeKeepRatio" else None


def _to_float(picture: Tensor) -> Tensor:
    return picture.float().div(255)


def _resize(size: Any, interpolation: Any, max_size: int | None = None) -> Converted:
    mode = _interpolation_mode(interpolation)
    if mode is None or size is None:
        return None
    sides = list(size) if isinstance(size, (tuple, list)) else [size]

    def run(picture: Tensor) -> Tensor:
        height, width = picture.shape[-2:]
        shape = sides if len(sides) == 2 else _shorter_side(height, width, sides[0], max_size)
        return _resized(picture, shape, mode)

    return [run]


def _shorter_side(height: int, width: int, size: int, max_size: int | None) -> list[int]:
    """Return the shape whose shorter side is `size`, rounded as torchvision does."""
    short, long = sorted((height, width))
    new_short, new_long = size, int(size * long / short)
    if max_size is not None and new_long > max_size:
        new_short, new_long = int(max_size * new_short / new_long), max_size
    return [new_short, new_long] if height <= width else [new_long, new_short]


def _resized(picture: Tensor, shape: list[int], mode: Any) -> Tensor:
    """Resize as PIL does."""
    from torchvision.transforms.v2 import functional

    # PIL rounds to grey levels between the two passes, so their order shows at sharp edges (up to 8
    # levels, bicubic). Torch resizes the width first; Pillow from version 13 resizes the height
    # first if it loses more than twice as many pixels.
    (height, width), (new_height, new_width) = picture.shape[-2:], shape
    if PILLOW >= 13 and height - new_height > max(0, 2 * (width - new_width)):
        picture = functional.resize(picture, [new_height, width], mode, antialias=True)
    # PIL always antialiases when downscaling, whatever the step's `antialias` says.
    resized: Tensor = functional.resize(picture, shape, mode, antialias=True)
    return resized


def _interpolation_mode(interpolation: Any) -> Any:
    from torchvision.transforms import InterpolationMode

    name = str(getattr(interpolation, "value", interpolation))
    return InterpolationMode(name) if name in INTERPOLATIONS else None


def _keep_ratio(step: Any) -> Converted:
    """Resize towards a box without distortion, rounded as timm and open_clip do."""
    mode = _interpolation_mode(step.interpolation)
    if mode is None or step.random_scale_prob or step.random_aspect_prob:
        return None

    def run(picture: Tensor) -> Tensor:
        height, width = picture.shape[-2:]
        ratios = height / step.size[0], width / step.size[1]
        ratio = max(ratios) * step.longest + min(ratios) * (1 - step.longest)
        return _resized(picture, [round(height / ratio), round(width / ratio)], mode)

    return [run]


def _center_crop(size: Any) -> TensorTransform:
    from torchvision.transforms.v2 import functional

    sides = list(size) if isinstance(size, (tuple, list)) else [size]
    return lambda picture: functional.center_crop(picture, sides)


def _crop_or_pad(step: Any) -> Converted:
    if getattr(step, "padding_mode", "constant") != "constant":
        return None
    from torchvision.transforms.v2 import functional

    crop = _center_crop(step.size)

    def run(picture: Tensor) -> Tensor:
        wide, high = (max(step.size[n] - picture.shape[n - 2], 0) for n in (1, 0))
        edges = [wide // 2, high // 2, (wide + 1) // 2, (high + 1) // 2]
        return crop(functional.pad(picture, edges, fill=step.fill) if any(edges) else picture)

    return [run]


def _preset(preset: Any) -> Converted:
    from torchvision.transforms.v2 import CenterCrop, Normalize

    resize = _resize(preset.resize_size, preset.interpolation)
    if resize is None:
        return None
    # CenterCrop interprets the size: a number, a pair, or a list of one number.
    crop = _center_crop(CenterCrop(preset.crop_size).size)
    return [*resize, crop, _to_float, Normalize(preset.mean, preset.std)]
