"""Image transforms made for PIL, on tensors: the fast half of `probe.decode=fast`.

torchvision decodes a JPEG and resizes it as uint8 tensor in about half of PIL's time. `apply` does
to such a tensor what a network's own transform would do to the PIL image.
"""

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
# The filters that a tensor kernel computes as PIL does.
KERNELS = ("bilinear", "bicubic")
# What leaves an RGB picture as it is.
IDLE = frozenset(["_convert_to_rgb", "Identity", "MaybeConvertMode", "RGB"])
TO_BYTES = frozenset(["MaybePILToTensor", "PILToTensor", "ToImage"])
TO_FLOAT = frozenset(["MaybeToTensor", "ToTensor"])
# Deterministic steps that do to a tensor what they do to any other.
ON_TENSORS = frozenset(["CenterCrop", "ConvertImageDtype", "Normalize", "Resize", "ToDtype",
                        "ToPureTensor"])  # fmt: skip


def apply(transform: Transform, picture: Picture) -> Tensor:
    """What a transform makes of a picture, `[channels, h, w]`; the picture stays as it is.

    A tensor goes through `tensor_transform` where there is one, else through PIL (said once).

    Args:
        transform: PIL image to tensor.
        picture: PIL image, or uint8 `[3, h, w]`.
    """
    if isinstance(picture, Image.Image):
        return transform(picture.copy())
    on_tensors = _known(_Same(transform))
    return on_tensors(picture) if on_tensors else transform(to_pil(picture))


def steps_of(transform: Transform) -> list[tuple[str, Any]]:
    """The steps of a transform with their names; an empty name of what isn't the libraries' own."""
    return [(_name(step), step) for step in _flat(transform)]


def tensor_transform(transform: Transform) -> TensorTransform | None:
    """The same as a transform of PIL images, for uint8 tensors `[3, h, w]`; None if unsure.

    Known are the evaluation transforms of torchvision (both versions, and the presets of its
    weights), timm and open_clip: resizing, the middle crop, scaling to 0..1, normalising. Results
    differ by rounding alone: at most 2 grey levels of 255 after resizing.
    """
    found: list[TensorTransform] = []
    is_tensor = False
    for step in _flat(transform):
        name = _name(step)
        known = _of_tensors(name, step) if is_tensor else _of_pil(name, step)
        if known is None:
            return None
        found.append(known)
        is_tensor = is_tensor or name in TO_BYTES | TO_FLOAT
    return Steps(tuple(found)) if found else None


@dataclass(frozen=True)
class Steps:
    """Functions of a tensor, one after the other."""

    steps: tuple[TensorTransform, ...]

    def __call__(self, picture: Tensor) -> Tensor:
        for step in self.steps:
            picture = step(picture)
        return picture


@dataclass(frozen=True)
class _Same:
    """A transform as a key: it equals itself alone, whether or not it can be hashed."""

    transform: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.transform is self.transform

    def __hash__(self) -> int:
        return id(self.transform)


@lru_cache(maxsize=32)
def _known(key: _Same) -> TensorTransform | None:
    found = tensor_transform(key.transform)
    worker = torch.utils.data.get_worker_info()
    if found is None and (worker is None or worker.id == 0):
        log.info(
            "the transform %s isn't known on tensors: its images go through PIL, slower",
            type(key.transform).__name__,
        )
    return found


def _flat(transform: Any) -> Iterator[Any]:
    """The steps of a transform, those of nested ones among them."""
    name = _name(transform)
    if name in ("Compose", "Sequential"):
        for step in getattr(transform, "transforms", transform):
            yield from _flat(step)
    else:
        yield transform


def _name(step: Any) -> str:
    """Class or function name of a step of the libraries' own; empty for anything else."""
    named = step if hasattr(step, "__qualname__") else type(step)
    library = str(getattr(named, "__module__", "")).partition(".")[0]
    is_container = isinstance(step, torch.nn.Sequential)
    return str(named.__qualname__) if library in LIBRARIES or is_container else ""


def _of_tensors(name: str, step: Any) -> TensorTransform | None:
    """A step that has tensors to work on with PIL images too, once they are converted."""
    if name in IDLE | TO_BYTES | TO_FLOAT:
        return _as_it_is
    return _own(step) if name in ON_TENSORS else None


def _of_pil(name: str, step: Any) -> TensorTransform | None:
    """A step that works on PIL images, or converts them."""
    if name in IDLE | TO_BYTES:
        return _as_it_is
    if name in TO_FLOAT:
        return _to_float
    makers: dict[str, Callable[[Any], TensorTransform | None]] = {
        "CenterCrop": _crop, "CenterCropOrPad": _crop_or_pad, "ImageClassification": _preset,
        "Resize": _resize, "ResizeKeepRatio": _keep_ratio,
    }  # fmt: skip
    return makers[name](step) if name in makers else None


def _own(step: Any) -> TensorTransform:
    return lambda picture: step(picture)


def _as_it_is(picture: Tensor) -> Tensor:
    return picture


def _to_float(picture: Tensor) -> Tensor:
    return picture.float().div(255)


def _resize(step: Any) -> TensorTransform | None:
    return _resizing(step.size, step.interpolation, getattr(step, "max_size", None))


def _resizing(size: Any, interpolation: Any, max_size: int | None = None) -> TensorTransform | None:
    kernel = _kernel(interpolation)
    if kernel is None or size is None:
        return None
    given = list(size) if isinstance(size, (tuple, list)) else [size]

    def run(picture: Tensor) -> Tensor:
        height, width = picture.shape[-2:]
        shape = given if len(given) == 2 else _shorter_side(height, width, given[0], max_size)
        return _resized(picture, shape, kernel)

    return run


def _shorter_side(height: int, width: int, size: int, max_size: int | None) -> list[int]:
    """The shape whose shorter side is `size`, as torchvision rounds it."""
    short, long = sorted((height, width))
    new_short, new_long = size, int(size * long / short)
    if max_size is not None and new_long > max_size:
        new_short, new_long = int(max_size * new_short / new_long), max_size
    return [new_short, new_long] if height <= width else [new_long, new_short]


def _resized(picture: Tensor, shape: list[int], kernel: Any) -> Tensor:
    """A picture in another size, as PIL computes it.

    Rows and columns are resampled one after the other, each to whole grey levels, and the order
    shows at sharp edges (up to 8 levels, bicubic). Torch takes the width first; Pillow from version
    13 on takes the height first where it loses more than twice as many pixels as the width.
    """
    from torchvision.transforms.v2 import functional

    (height, width), (high, wide) = picture.shape[-2:], shape
    if PILLOW >= 13 and height - high > max(0, 2 * (width - wide)):
        picture = functional.resize(picture, [high, width], kernel, antialias=True)
    # PIL always smooths before it makes an image smaller, whatever the step's `antialias` says.
    resized: Tensor = functional.resize(picture, shape, kernel, antialias=True)
    return resized


def _kernel(interpolation: Any) -> Any:
    from torchvision.transforms import InterpolationMode

    name = str(getattr(interpolation, "value", interpolation))
    return InterpolationMode(name) if name in KERNELS else None


def _keep_ratio(step: Any) -> TensorTransform | None:
    """Resizing towards a box without distortion, as timm and open_clip round it."""
    kernel = _kernel(step.interpolation)
    if kernel is None or step.random_scale_prob or step.random_aspect_prob:
        return None

    def run(picture: Tensor) -> Tensor:
        height, width = picture.shape[-2:]
        ratios = height / step.size[0], width / step.size[1]
        ratio = max(ratios) * step.longest + min(ratios) * (1 - step.longest)
        return _resized(picture, [round(height / ratio), round(width / ratio)], kernel)

    return run


def _crop(step: Any) -> TensorTransform:
    from torchvision.transforms.v2 import functional

    size = list(step.size) if isinstance(step.size, (tuple, list)) else [step.size]
    return lambda picture: functional.center_crop(picture, size)


def _crop_or_pad(step: Any) -> TensorTransform | None:
    if getattr(step, "padding_mode", "constant") != "constant":
        return None
    from torchvision.transforms.v2 import functional

    crop = _crop(step)

    def run(picture: Tensor) -> Tensor:
        wide, high = (max(step.size[n] - picture.shape[n - 2], 0) for n in (1, 0))
        edges = [wide // 2, high // 2, (wide + 1) // 2, (high + 1) // 2]
        return crop(functional.pad(picture, edges, fill=step.fill) if any(edges) else picture)

    return run


def _preset(preset: Any) -> TensorTransform | None:
    resize = _resizing(preset.resize_size, preset.interpolation)
    if resize is None:
        return None
    from torchvision.transforms.v2 import CenterCrop, Normalize

    crop = _crop(CenterCrop(preset.crop_size))
    return Steps((resize, crop, _to_float, _own(Normalize(preset.mean, preset.std))))
