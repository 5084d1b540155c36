"""The thumbnails of a report: what the network saw of each image."""

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

QUALITY = 75  # 160 pixels wide: about 4 kB


class Seen(Thumbnails):
    """Images as a network's preprocessing leaves them, with their colours put back.

    Regions found in the network's maps lie right on these, whatever was cut off. Where the colours
    can't be put back (not three channels), it is the square in the image's middle.

    Args:
        probe: where the images are.
        preprocess: of the network.
        side: in pixels.
    """

    suffix, format = (".webp", "WEBP") if features.check("webp") else (".jpg", "JPEG")
    quality = QUALITY

    def __init__(self, probe: Probe, preprocess: Transform, side: int) -> None:
        super().__init__(probe, side, ("seen", hashing.hash_transform(preprocess), self.suffix))
        self.preprocess, self.colours = preprocess, _colours(preprocess)

    def made(self, picture: Image.Image) -> Image.Image:
        """The network's input as a square picture."""
        if self.colours is None:
            return super().made(picture)
        black, inverse = self.colours
        pixels = self.preprocess(picture).double() - black[:, None, None]
        rgb = torch.einsum("rc,chw->hwr", inverse, pixels).clamp(0, 1)
        seen = Image.fromarray((rgb * 255).round().byte().numpy())
        return seen.resize((self.side, self.side), Image.Resampling.LANCZOS)


def _colours(
    preprocess: Transform,
) -> tuple[Float[Tensor, " 3"], Float[Tensor, "3 3"]] | None:
    """What black becomes, and the matrix that takes channels back to RGB; None if there is none.

    Found from what the transform does to one-coloured pictures, so that means, deviations and the
    order of channels needn't be known.
    """
    black, *primaries = (
        _middle(preprocess, colour) for colour in ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
    )
    if len(black) != 3:
        return None
    matrix = torch.stack([channel - black for channel in primaries], 1)
    if abs(float(np.linalg.det(matrix.numpy()))) < 1e-9:
        return None
    return black, torch.linalg.inv(matrix)


def _middle(preprocess: Transform, colour: tuple[int, int, int]) -> Float[Tensor, " channels"]:
    """The channels in the middle of a one-coloured picture; padding is at the edges."""
    out = preprocess(Image.new("RGB", (256, 256), colour)).double()
    return out[:, out.shape[1] // 2, out.shape[2] // 2]
