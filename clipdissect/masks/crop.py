"""Preprocessing without the crop: masks are of whole images, so the network must see them."""

from __future__ import annotations

from typing import Any

from clipdissect.images.transforms import steps_of
from clipdissect.utils.hashing import Transform

VIEWS = ("whole", "target")
RESIZES, CROPS = ("Resize", "ResizeKeepRatio"), ("CenterCrop", "CenterCropOrPad")
UNKNOWN = (
    "the target's preprocessing isn't one of torchvision's, timm's or open_clip's, so it is used "
    "unchanged: masks are right only if it shows the network the whole image, uncropped"
)
CROPPED = (
    "the network sees images as its preprocessing crops them, while the masks are of whole images "
    "(method.view=target)"
)


def without_crop(transform: Transform) -> tuple[Transform, tuple[str, ...]]:
    """Return a transform that squeezes the whole image to the input size; and warnings.

    A crop would misalign maps and masks, so the resizing before it is to the input size, as in
    Network Dissection's code. A transform without a crop is returned unchanged.
    """
    from torchvision import transforms

    steps = steps_of(transform)
    if any(not name for name, _ in steps):
        return transform, (UNKNOWN,)
    uncropped: list[Any] = []
    interpolation: Any = transforms.InterpolationMode.BILINEAR
    changed = False
    for name, step in steps:
        if name == "ImageClassification":  # torchvision's presets
            uncropped += [
                transforms.Resize(_pair(step.crop_size), interpolation=step.interpolation),
                transforms.ToTensor(),
                transforms.Normalize(step.mean, step.std),
            ]
            changed = True
        elif name in RESIZES and any(later in CROPS for later, _ in steps):
            interpolation = step.interpolation
        elif name in CROPS:
            uncropped.append(transforms.Resize(_pair(step.size), interpolation=interpolation))
            changed = True
        else:
            uncropped.append(step)
    composed: Transform = transforms.Compose(uncropped)
    return (composed, ()) if changed else (transform, ())


def _pair(size: Any) -> list[int]:
    sides = list(size) if isinstance(size, (tuple, list)) else [size]
    return sides if len(sides) == 2 else [sides[0], sides[0]]
