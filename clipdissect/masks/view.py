"""What of an image a network is shown: masks are of whole images, so the network must see them."""

from __future__ import annotations

from typing import Any

from clipdissect.images.transforms import steps_of
from clipdissect.utils.hashing import Transform

VIEWS = ("whole", "target")
RESIZES, CROPS = ("Resize", "ResizeKeepRatio"), ("CenterCrop", "CenterCropOrPad")
UNKNOWN = (
    "the target's preprocessing isn't one of torchvision's, timm's or open_clip's, so it is used "
    "as it is: masks are right only if it shows the network the whole image, uncropped"
)
CROPPED = (
    "the network sees images as its preprocessing crops them, while the masks are of whole images "
    "(method.view=target)"
)


def whole_view(transform: Transform) -> tuple[Transform, tuple[str, ...]]:
    """A transform that shows the network the whole image, squeezed to its input size; and notes.

    Evaluation transforms enlarge an image and cut its edges off, after which positions of a map no
    longer are those of the mask. The crop is left out, and the resizing before it goes to the
    input's size, as in the published code of Network Dissection. Without a crop it is kept.

    Args:
        transform: PIL image to the network's input.
    """
    from torchvision import transforms

    steps = steps_of(transform)
    if any(not name for name, _ in steps):
        return transform, (UNKNOWN,)
    found: list[Any] = []
    interpolation: Any = transforms.InterpolationMode.BILINEAR
    changed = False
    for name, step in steps:
        if name == "ImageClassification":
            found += _preset(step)
            changed = True
        elif name in RESIZES and any(later in CROPS for later, _ in steps):
            interpolation = step.interpolation
        elif name in CROPS:
            found.append(transforms.Resize(_pair(step.size), interpolation=interpolation))
            changed = True
        else:
            found.append(step)
    whole: Transform = transforms.Compose(found)
    return (whole, ()) if changed else (transform, ())


def _preset(step: Any) -> list[Any]:
    """The steps of torchvision's presets, without the crop."""
    from torchvision import transforms

    return [
        transforms.Resize(_pair(step.crop_size), interpolation=step.interpolation),
        transforms.ToTensor(),
        transforms.Normalize(step.mean, step.std),
    ]


def _pair(size: Any) -> list[int]:
    given = list(size) if isinstance(size, (tuple, list)) else [size]
    return given if len(given) == 2 else [given[0], given[0]]
