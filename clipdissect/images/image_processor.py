"""Image processors of transformers as transforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class ImageProcessor:
    """An image processor of transformers as a transform, PIL image to `[channels, h, w]`."""

    processor: Any

    def __call__(self, image: Image.Image) -> Tensor:
        values: Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"]
        return values[0]
