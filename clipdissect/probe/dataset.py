"""Any map-style dataset as a probe."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, Subset

from clipdissect.errors import DissectError
from clipdissect.images.decode import UnreadableImage, is_transient, tag_of, upright_rgb
from clipdissect.probe.arrays import image_of
from clipdissect.probe.base import Labels, Probe
from clipdissect.probe.dataset_files import files_of
from clipdissect.probe.options import ProbeOptions

READ_TWICE = 8  # first images, to notice random transforms


@dataclass(frozen=True)
class DatasetReader:
    """Reader of a dataset's images: an item, or its first part, as RGB."""

    data: Any
    orientation: str = "ignore"

    def __call__(self, index: int) -> Image.Image:
        return self.rgb(self.image(index))

    def rgb(self, image: Image.Image | Tensor) -> Image.Image:
        if isinstance(image, Image.Image):
            return upright_rgb(image, self.orientation)
        return _from_tensor(image)

    def image(self, index: int) -> Image.Image | Tensor:
        """Return the image as the dataset gives it, or raise `UnreadableImage`."""
        try:
            item = self.data[index]
        except Exception as error:  # the dataset's own code
            reason = f"{type(error).__name__}: {error}"
            raise UnreadableImage(reason, is_transient(error)) from error
        image = item[0] if isinstance(item, (tuple, list)) else item
        if isinstance(image, np.ndarray):
            return image_of(image)
        if isinstance(image, (Image.Image, Tensor)):
            return image
        raise DissectError(
            f"item {index} of the dataset is a {type(image).__name__}; the probe needs PIL images "
            f"or tensors [3, height, width] (change the dataset's transform)"
        )


def dataset(
    data: Any, name: str = "dataset", on_error: str = "skip", orientation: str = "ignore"
) -> Probe:
    """Use a map-style dataset of PIL images, unnormalised tensors, arrays or (image, ...) tuples.

    Reads all images once to hash their pixels; names are file names where the dataset lists them
    (`dataset_files`), labels come from `classes` and `targets`.

    Args:
        on_error: `skip` or `raise` for items that raise.
        orientation: `apply` turns PIL images by their EXIF tag, `ignore` doesn't.

    Raises:
        DissectError: not a map-style dataset, items that aren't images, normalised or random ones.
    """
    _check_map_style(data)
    options = ProbeOptions(on_error=on_error, orientation=orientation)
    reader = DatasetReader(data, orientation)
    identities, tags = [], []
    for index in range(len(data)):
        identity, tag = _inspect(reader, index)
        identities.append(identity)
        tags.append(tag)
    if any(_inspect(reader, i)[0] != identities[i] for i in range(min(READ_TWICE, len(data)))):
        raise DissectError(
            "the dataset gives another image at each access (a random crop or flip?): use the "
            "transform for evaluation, or none"
        )
    files = files_of(data)
    return Probe.of(
        name,
        files.names if files else [f"{name}[{index}]" for index in range(len(data))],
        reader,
        identities,
        on_error=on_error,
        labels=_labels(data),
        notes=options.orientation_notes(tags),
        file=files,
    )


def _check_map_style(data: Any) -> None:
    if isinstance(data, IterableDataset):
        raise DissectError(
            f"{type(data).__name__} is an iterable-style dataset, of which an image can't be read "
            f"again by its number: write its images to files, or put them into a list"
        )
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise DissectError(
            f"a probe must be a folder, the name of a probe, a list of files, an array, a "
            f"DataLoader, or a dataset with len() and [i]; got {type(data).__name__}"
        )


def _inspect(reader: DatasetReader, index: int) -> tuple[str, int]:
    try:
        image = reader.image(index)
        pixels = np.asarray(reader.rgb(image))
    except UnreadableImage:
        return "unreadable", 1
    hasher = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=20)
    hasher.update(pixels.tobytes())
    return hasher.hexdigest(), tag_of(image) if isinstance(image, Image.Image) else 1


def _labels(data: Any) -> Labels | None:
    if isinstance(data, Subset):
        of_whole = _labels(data.dataset)
        return of_whole and tuple(of_whole[index] for index in data.indices)
    names, targets = getattr(data, "classes", None), getattr(data, "targets", None)
    if not isinstance(names, Sequence) or not isinstance(targets, (Sequence, np.ndarray, Tensor)):
        return None
    numbers = [int(target) for target in targets]
    if len(numbers) != len(data) or not all(0 <= n < len(names) for n in numbers):
        return None
    return tuple(str(names[n]) for n in numbers)


def _from_tensor(image: Tensor) -> Image.Image:
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise DissectError(f"an image tensor must be [3, height, width]; got {tuple(image.shape)}")
    if image.dtype == torch.bool:
        image = image.float()
    low, high = float(image.min()), float(image.max())
    white = 1 if image.is_floating_point() else 255
    if not (low >= 0 and high <= white):  # false for NaNs too
        raise DissectError(
            f"an image tensor must lie in 0..1 (floats) or 0..255 (integers); got "
            f"{low:.5g}..{high:.5g}. Leave normalisation out of the dataset: the network's "
            f"preprocess does it"
        )
    if image.is_floating_point():
        image = (image * 255).round()
    pixels = image.to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).contiguous().cpu().numpy()
    return Image.fromarray(pixels)
