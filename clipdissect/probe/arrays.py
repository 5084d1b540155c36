"""Images in arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from clipdissect.errors import DissectError

CHANNELS = (1, 3)


@dataclass(frozen=True)
class ImageArray:
    """An array of images as a dataset of tensors `[channels, h, w]`."""

    images: Shaped[Tensor, "images ..."]
    is_channels_last: bool

    @classmethod
    def of(cls, images: Tensor | np.ndarray) -> ImageArray:
        """Return the dataset of an array `[images, h, w, channels]` or `[images, channels, h, w]`.

        Raises:
            DissectError: another shape or type, or one in which the channels aren't clear.
        """
        tensor = as_tensor(images)
        if tensor.ndim != 4 or 0 in tensor.shape:
            raise _wrong_shape(tensor, "images, ")
        return cls(tensor, _is_channels_last(tensor, "images, "))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        image = self.images[index]
        return image.permute(2, 0, 1) if self.is_channels_last else image


def image_of(array: np.ndarray) -> Tensor:
    """Return an array `[h, w]`, `[h, w, channels]` or `[channels, h, w]` as `[channels, h, w]`."""
    tensor = as_tensor(array)
    if tensor.ndim == 2:
        return tensor[None]
    if tensor.ndim != 3:
        raise _wrong_shape(tensor, "")
    return tensor.permute(2, 0, 1) if _is_channels_last(tensor, "") else tensor


def as_tensor(array: Tensor | np.ndarray) -> Tensor:
    """Return a tensor of an array's numbers; raise a DissectError if they aren't numbers."""
    if isinstance(array, Tensor):
        return array
    if array.dtype.kind not in "buif" or array.dtype.itemsize > 8:
        raise DissectError(f"arrays of images must be of numbers, such as uint8; got {array.dtype}")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # few functions of torch take them
        array = array.astype(np.int64)
    usable = array.flags.writeable and array.dtype.isnative and min(array.strides, default=0) >= 0
    return torch.from_numpy(array if usable else array.astype(array.dtype.newbyteorder("=")))


def _is_channels_last(tensor: Tensor, axes: str) -> bool:
    first, last = (tensor.shape[axis] in CHANNELS for axis in (-3, -1))
    if first == last:
        raise _wrong_shape(tensor, axes)
    return last


def _wrong_shape(tensor: Tensor, axes: str) -> DissectError:
    return DissectError(
        f"arrays of images must be [{axes}h, w, 3] or [{axes}3, h, w] (1 for grey); got "
        f"{list(tensor.shape)}"
    )
