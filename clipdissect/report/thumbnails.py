"""Thumbnails of a report: the images as the network saw them."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, features
from torch import Tensor

from clipdissect.probe import Probe
from clipdissect.probe.thumbnails import Thumbnails
from clipdissect.utils import hashing
from clipdissect.utils.hashing import Transform


class NetworkInputs(Thumbnails):
    """A network's inputs with the normalisation inverted, so that activation maps align.

    If the colours can't be restored (not three channels): the image's central square.
    """

    suffix, format = (".webp", "WEBP") if features.check("webp") else (".jpg", "JPEG")
    quality = 75  # 160 pixels wide: about 4 kB

    def __init__(self, probe: Probe, preprocess: Transform, side: int) -> None:
        super().__init__(probe, side, ("seen", hashing.hash_transform(preprocess), self.suffix))
        self.preprocess, self.colours = preprocess, _inverse_colours(preprocess)

    def made(self, picture: Image.Image) -> Image.Image:
        if self.colours is None:
            return super().made(picture)
        black, inverse = self.colours
        pixels = self.preprocess(picture).double() - black[:, None, None]
        rgb = torch.einsum("rc,chw->hwr", inverse, pixels).clamp(0, 1)
        image = Image.fromarray((rgb * 255).round().byte().numpy())
        return image.resize((self.side, self.side), Image.Resampling.LANCZOS)


def _inverse_colours(
    preprocess: Transform,
) -> tuple[Float[Tensor, " 3"], Float[Tensor, "3 3"]] | None:
    """Measure black and the matrix from channels to RGB; None if not invertible."""
    colours = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
    black, *primaries = (_centre_value(preprocess, colour) for colour in colours)
    if len(black) != 3:
        return None
    matrix = torch.stack([channel - black for channel in primaries], 1)
    if abs(float(np.linalg.det(matrix.numpy()))) < 1e-9:
        return None
    return black, torch.linalg.inv(matrix)


def _centre_value(
    preprocess: Transform, colour: tuple[int, int, int]
) -> Float[Tensor, " channels"]:
    """Return the central pixel of a preprocessed one-coloured picture; edges may be padding."""
    out = preprocess(Image.new("RGB", (256, 256), colour)).double()
    return out[:, out.shape[1] // 2, out.shape[2] // 2]
