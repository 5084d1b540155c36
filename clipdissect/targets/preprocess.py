"""Image transforms from a few numbers, for networks that don't bring their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipdissect.errors import DissectError, unknown
from clipdissect.utils import import_path
from clipdissect.utils.hashing import Transform

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming")
KEYS = ("image_size", "resize", "mean", "std", "interpolation")
ASSUMED = (
    "preprocess wasn't told, so it is ImageNet's usual one: shorter side to 256, middle 224 "
    "pixels, ImageNet mean and deviation. Set target.preprocess or target.transform if the network "
    "was trained with another"
)


def image_transform(
    image_size: int | list[int] = 224,
    resize: int | list[int] | None = None,
    mean: list[float] | tuple[float, ...] = IMAGENET_MEAN,
    std: list[float] | tuple[float, ...] = IMAGENET_STD,
    interpolation: str = "bilinear",
) -> Transform:
    """Return a transform: resize, center crop, scale to 0..1, normalise.

    Args:
        image_size: of the input, in pixels, or `[height, width]`.
        resize: length of the shorter side before the crop, or `[height, width]`; by default
            `image_size` / 0.875 (256 for 224), as for ImageNet.
        mean: of each channel, in 0..1; a single number converts to grey, `[1, h, w]`.
        std: of each channel.
        interpolation: one of `INTERPOLATIONS`.

    Raises:
        DissectError: a value out of range.
    """
    from torchvision import transforms

    size = _pixels("image_size", image_size)
    square = size * 2 if len(size) == 1 else size
    before = _pixels("resize", resize) if resize is not None else [round(min(square) / 0.875)]
    if min(before) < (min(square) if len(before) == 1 else 1):
        raise DissectError(f"preprocess.resize is {resize}, less than the image_size {image_size}")
    if interpolation not in INTERPOLATIONS:
        raise unknown("preprocess.interpolation", interpolation, INTERPOLATIONS)
    centre, spread = _numbers("mean", mean), _numbers("std", std)
    if len(centre) != len(spread) or min(spread) <= 0:
        raise DissectError(
            f"preprocess.mean and std must be as many numbers, std above 0; got {mean} and {std}"
        )
    steps = [
        transforms.Resize(
            before[0] if len(before) == 1 else before,
            interpolation=transforms.InterpolationMode(interpolation),
        ),
        transforms.CenterCrop(square),
        *([transforms.Grayscale()] if len(centre) == 1 else []),
        transforms.ToTensor(),
        transforms.Normalize(centre, spread),
    ]
    composed: Transform = transforms.Compose(steps)
    return composed


def choose(
    transform: str | None, preprocess: Mapping[str, Any] | None, own: Transform | None = None
) -> tuple[Transform, tuple[str, ...]]:
    """Return the transform that a target's options ask for, and notes on it.

    Args:
        transform: import path of a function from a PIL image to a tensor.
        preprocess: arguments of `image_transform`; None values are ignored.
        own: the default.

    Raises:
        DissectError: both are given, an unknown key, or from `import_path.load`.
    """
    given = {key: value for key, value in dict(preprocess or {}).items() if value is not None}
    for key in given:
        if key not in KEYS:
            raise unknown("key of target.preprocess", key, KEYS)
    if transform and given:
        raise DissectError("set either target.transform or target.preprocess, not both")
    if transform:
        loaded: Transform = import_path.load(transform, "target.transform")
        return loaded, ()
    if own is not None and not given:
        return own, ()
    return image_transform(**given), () if given else (ASSUMED,)


def _pixels(name: str, value: Any) -> list[int]:
    sizes = list(value) if isinstance(value, (list, tuple)) else [value]
    whole = all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in sizes)
    if not whole or len(sizes) not in (1, 2):
        raise DissectError(
            f"preprocess.{name} must be pixels or [height, width], such as 224; got {value!r}"
        )
    return sizes


def _numbers(name: str, value: Any) -> list[float]:
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    if not numbers or not all(isinstance(v, (int, float)) for v in numbers):
        raise DissectError(
            f"preprocess.{name} must be a number for each channel, such as [0.5, 0.5, 0.5]; "
            f"got {value!r}"
        )
    return [float(v) for v in numbers]
