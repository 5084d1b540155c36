"""Split transforms into 8-bit pixels per image, and float inputs per batch.

Transforms of PIL images are applied to tensors too, which decode and resize in half the time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL import __version__ as pillow_version
from torch import Tensor

from clipdissect.images.decode import Picture, to_pil
from clipdissect.utils.hashing import Transform

log = logging.getLogger(__name__)

PILLOW = int(pillow_version.partition(".")[0])
LIBRARIES = ("torchvision", "timm", "open_clip")
# Interpolation that torch computes as PIL does, and all of PIL's.
INTERPOLATIONS = ("bilinear", "bicubic")
PIL_INTERPOLATIONS = (*INTERPOLATIONS, "nearest", "nearest-exact", "box", "hamming", "lanczos")
# Steps that leave an RGB picture unchanged.
IDENTITIES = frozenset(["_convert_to_rgb", "Identity", "MaybeConvertMode", "RGB"])
TO_BYTES = frozenset(["MaybePILToTensor", "PILToTensor", "ToImage"])
TO_FLOAT = frozenset(["MaybeToTensor", "ToTensor"])
# Deterministic steps that don't depend on the origin of a tensor.
ON_TENSORS = frozenset(["CenterCrop", "ConvertImageDtype", "Normalize", "Resize", "ToDtype"])


@dataclass(frozen=True)
class Step:
    """A step on one picture; steps of equal keys give equal pixels."""

    key: tuple[object, ...]
    on_pil: Callable[[Any], Any] = field(compare=False)
    on_tensor: Callable[[Tensor], Tensor] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ToFloat:
    """Scale 8-bit levels to 0..1: by division or, as torchvision's v2, by multiplication."""

    dtype: torch.dtype
    multiplies: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Return new floats of `[..., h, w]`, the same on all devices."""
        floats = images.to(self.dtype)
        if self.multiplies:
            return floats.mul_(1 / 255)
        # Divided by a tensor: CUDA multiplies by the rounded reciprocal of a plain number.
        return floats.div_(torch.full((), 255, dtype=self.dtype, device=images.device))


@dataclass(frozen=True)
class Normalize:
    """Subtract the mean and divide by the deviation of each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Return new floats of `[..., channels, h, w]`."""
        # torchvision's own step copies its numbers to the device, and waits for it, at every call.
        mean, std = (_constant(v, images.dtype, images.device) for v in (self.mean, self.std))
        return images.sub(mean).div_(std)


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


BatchStep = ToFloat | Normalize


@dataclass(frozen=True)
class SplitTransform:
    """A transform in two parts: `pixels` for each picture, then `finish` for a batch.

    Splits with equal `steps` give equal pixels. A transform that can't be split has no
    `batch_steps`: its pixels are its outputs.
    """

    steps: tuple[Step, ...]
    batch_steps: tuple[BatchStep, ...] = ()

    @property
    def on_tensors(self) -> bool:
        """Whether tensors are transformed as such, rather than through PIL."""
        return all(step.on_tensor is not None for step in self.steps)

    def pixels(self, picture: Picture) -> Tensor:
        """Transform an image, a tensor on its device; return `[channels, h, w]`."""
        if isinstance(picture, Tensor) and self.on_tensors:
            for step in self.steps:
                assert step.on_tensor is not None  # as `on_tensors` says
                picture = step.on_tensor(picture)
            return picture
        if isinstance(picture, Tensor):
            _mention_pil(self.steps)
        changed: Any = to_pil(picture)
        for step in self.steps:
            changed = step.on_pil(changed)
        return _as_tensor(changed)

    def finish(self, images: Tensor) -> Tensor:
        """Turn 8-bit pixels `[images, channels, h, w]` into inputs, on their device.

        Images of another type are inputs already.
        """
        for step in self.batch_steps if images.dtype == torch.uint8 else ():
            images = step(images)
        return images


def split(transform: Transform) -> SplitTransform:
    """Split a transform of PIL images that are RGB, as it is now.

    Known are evaluation transforms of torchvision, timm and open_clip: resize, crop, pad, to grey,
    scale, normalise. On tensors at most 2 of 255 grey levels differ after resizing.
    """
    steps = _known_steps(transform)
    if not steps:
        return SplitTransform((_whole(transform),))
    first = next((n for n, step in enumerate(steps) if isinstance(step, BatchStep)), len(steps))
    pixels = tuple(step for step in steps[:first] if isinstance(step, Step))
    finish = tuple(step for step in steps[first:] if isinstance(step, BatchStep))
    found = SplitTransform(pixels, finish)
    if len(pixels) + len(finish) == len(steps) and _agrees(found, transform):
        return found
    # A step on floats needs the whole image (resizing), or another version computes differently.
    functions = [step.on_tensor if isinstance(step, Step) else step for step in steps]
    known = tuple(function for function in functions if function is not None)
    on_tensor = partial(_chain, known) if len(known) == len(steps) else None
    return SplitTransform((_whole(transform, on_tensor),))


def _known_steps(transform: Transform) -> list[Step | BatchStep] | None:
    """Return a transform's converted steps; None if one is unknown."""
    steps: list[Step | BatchStep] = []
    has_tensor = is_grey = False
    for name, step in steps_of(transform):
        converted = (_tensor_step if has_tensor else _pil_step)(name, step, steps)
        if converted is None or (is_grey and name in IDENTITIES):
            return None
        steps += converted
        has_tensor = has_tensor or name in TO_BYTES | TO_FLOAT
        is_grey = is_grey or name == "Grayscale"
    return steps


def _agrees(found: SplitTransform, transform: Transform) -> bool:
    """Return whether both parts together give the transform's bytes for an image of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    try:
        expected, output = transform(image.copy()), found.finish(found.pixels(image)[None])[0]
    except Exception:  # of the transform itself, which will say so
        return False
    return output.dtype == expected.dtype and torch.equal(output, expected)


def _whole(transform: Transform, on_tensor: Callable[[Tensor], Tensor] | None = None) -> Step:
    key = (f"the transform {type(transform).__name__}", _ById(transform))
    return Step(key, partial(_on_copy, transform), on_tensor)


def steps_of(transform: Transform) -> list[tuple[str, Any]]:
    """Return a transform's steps and their names, empty for unknown libraries."""
    return [(_name(step), step) for step in _flatten(transform)]


@dataclass(frozen=True)
class _ById:
    """A cache key of a transform, hashable or not."""

    transform: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.transform is self.transform

    def __hash__(self) -> int:
        return id(self.transform)


# Partial applications of module functions, unlike closures, can be sent to worker processes.
def _on_copy(transform: Transform, picture: Image.Image) -> Tensor:
    return transform(picture.copy())  # it may draw on its image


def _chain(functions: tuple[Callable[[Tensor], Tensor], ...], picture: Tensor) -> Tensor:
    for function in functions:
        picture = function(picture)
    return picture


@lru_cache(maxsize=32)
def _mention_pil(steps: tuple[Step, ...]) -> None:
    worker = torch.utils.data.get_worker_info()
    if worker is None or worker.id == 0:
        names = ", ".join(str(step.key[0]) for step in steps if step.on_tensor is None)
        log.info("%s isn't supported on tensors: using PIL, which is slower", names)


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


Converted = Sequence[Step | BatchStep] | None  # None: unknown


def _tensor_step(name: str, step: Any, before: Sequence[Step | BatchStep]) -> Converted:
    """Convert a step that gets tensors in the original transform too."""
    is_float = any(isinstance(earlier, BatchStep) for earlier in before)
    if name in IDENTITIES | TO_BYTES | TO_FLOAT | {"ToPureTensor"}:
        return []
    if name == "Normalize" and is_float and (normalize := _normalize(step)):
        return [normalize]
    scales = name == "ConvertImageDtype" or (name == "ToDtype" and step.scale)
    if scales and not is_float and step.dtype == torch.float32:
        return [ToFloat(step.dtype, ".v2." in type(step).__module__)]
    if name not in ON_TENSORS:
        return None
    key = ("tensor", name, repr(sorted(vars(step).items())))
    return [Step(key, partial(_then, step), step)]


def _pil_step(name: str, step: Any, before: Sequence[Step | BatchStep]) -> Converted:
    """Convert a step that works on PIL images, or converts them."""
    if any(isinstance(earlier, BatchStep) for earlier in before):  # of ImageClassification
        return _tensor_step(name, step, before)
    if name in IDENTITIES | TO_BYTES:
        return []
    if name in TO_FLOAT:
        return [ToFloat(torch.get_default_dtype())]
    if name == "Grayscale":
        return [Step((name, step.num_output_channels), step)]
    if name == "CenterCrop":
        return [_center_crop(step.size, step)]
    if name == "CenterCropOrPad":
        return _crop_or_pad(step)
    if name == "ImageClassification":
        return _preset(step)
    if name == "Resize":
        return _resize(step.size, step.interpolation, getattr(step, "max_size", None), step)
    return _keep_ratio(step) if name == "ResizeKeepRatio" else None


def _as_tensor(picture: Image.Image | Tensor) -> Tensor:
    from torchvision.transforms.functional import pil_to_tensor

    return pil_to_tensor(picture) if isinstance(picture, Image.Image) else picture


def _then(step: Callable[[Tensor], Tensor], picture: Image.Image | Tensor) -> Tensor:
    return step(_as_tensor(picture))


def _normalize(step: Any) -> Normalize | None:
    mean, std = (torch.as_tensor(v, dtype=torch.float64) for v in (step.mean, step.std))
    if mean.ndim > 1 or std.ndim > 1 or not bool(std.all()):
        return None  # torchvision refuses a deviation of 0
    return Normalize(tuple(mean.view(-1).tolist()), tuple(std.view(-1).tolist()))


def _resize(size: Any, interpolation: Any, max_size: int | None, on_pil: Any) -> Converted:
    mode = _interpolation_mode(interpolation)
    if mode is None or size is None:
        return None
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size,)
    on_tensor = partial(_resize_tensor, sides, mode, max_size)
    return [_resizing(("Resize", sides, mode.value, max_size), on_pil, on_tensor)]


def _resizing(key: tuple[object, ...], on_pil: Any, on_tensor: Any) -> Step:
    return Step(key, on_pil, on_tensor if key[2] in INTERPOLATIONS else None)


def _resize_tensor(
    sides: tuple[int, ...], mode: Any, max_size: int | None, picture: Tensor
) -> Tensor:
    height, width = picture.shape[-2:]
    pair = len(sides) == 2
    shape = list(sides) if pair else _shorter_side(height, width, sides[0], max_size)
    return _resized(picture, shape, mode)


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
    return InterpolationMode(name) if name in PIL_INTERPOLATIONS else None


def _keep_ratio(step: Any) -> Converted:
    """Resize towards a box without distortion, rounded as timm and open_clip do."""
    mode = _interpolation_mode(step.interpolation)
    if mode is None or step.random_scale_prob or step.random_aspect_prob:
        return None
    key = (f"{type(step).__module__}.ResizeKeepRatio", step.size, mode.value, step.longest)
    return [_resizing(key, step, partial(_keep_ratio_of_tensor, step, mode))]


def _keep_ratio_of_tensor(step: Any, mode: Any, picture: Tensor) -> Tensor:
    height, width = picture.shape[-2:]
    ratios = height / step.size[0], width / step.size[1]
    ratio = max(ratios) * step.longest + min(ratios) * (1 - step.longest)
    return _resized(picture, [round(height / ratio), round(width / ratio)], mode)


def _center_crop(size: Any, on_pil: Any) -> Step:
    from torchvision.transforms.v2 import CenterCrop, functional

    # CenterCrop interprets the size: a number, a pair, or a list of one number.
    sides = list(CenterCrop(size).size)
    on_tensor = partial(functional.center_crop, output_size=sides)
    return Step(("CenterCrop", *sides), on_pil, on_tensor)


def _crop_or_pad(step: Any) -> Converted:
    if getattr(step, "padding_mode", "constant") != "constant":
        return None
    fill = tuple(step.fill) if isinstance(step.fill, (tuple, list)) else step.fill
    key = (f"{type(step).__module__}.CenterCropOrPad", tuple(step.size), fill)
    return [Step(key, step, partial(_crop_or_pad_tensor, step))]


def _crop_or_pad_tensor(step: Any, picture: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional

    wide, high = (max(step.size[n] - picture.shape[n - 2], 0) for n in (1, 0))
    edges = [wide // 2, high // 2, (wide + 1) // 2, (high + 1) // 2]
    padded = functional.pad(picture, edges, fill=step.fill) if any(edges) else picture
    cropped: Tensor = functional.center_crop(padded, list(step.size))
    return cropped


def _preset(preset: Any) -> Converted:
    from torchvision.transforms import functional

    size, mode = preset.resize_size, preset.interpolation
    on_pil = partial(functional.resize, size=size, interpolation=mode)
    resize = _resize(size, mode, None, on_pil)
    normalize = _normalize(preset)
    if resize is None or normalize is None:
        return None
    crop = _center_crop(
        preset.crop_size, partial(functional.center_crop, output_size=preset.crop_size)
    )
    return [*resize, crop, ToFloat(torch.float32), normalize]
