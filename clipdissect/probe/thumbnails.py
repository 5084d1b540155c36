"""Thumbnails of a probe's images, for trackers and reports; cached in the user cache."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, features
from torch import Tensor

from clipdissect.images.decode import UnreadableImage, open_rgb, to_pil
from clipdissect.probe import Probe
from clipdissect.utils import hashing
from clipdissect.utils.files import atomic, note_use
from clipdissect.utils.hashing import Transform
from clipdissect.utils.paths import cache_dir

GREY = (128, 128, 128)


class Thumbnails:
    """Square thumbnails of a probe's images, `side` pixels wide; `kind` extends the cache key."""

    suffix, format, quality = ".jpg", "JPEG", 85

    def __init__(self, probe: Probe, side: int = 96, kind: Sequence[str] = ()) -> None:
        self.probe, self.side = probe, side
        self.folder = cache_dir() / "thumbnails" / hashing.hash_values(probe.digest, side, *kind)
        note_use(self.folder)

    def strip(self, names: Sequence[str]) -> Image.Image:
        """Return the images in a row; unreadable ones are grey."""
        row = Image.new("RGB", (self.side * max(1, len(names)), self.side), GREY)
        for position, name in enumerate(names):
            path = self.file(name)
            if path is not None:
                row.paste(open_rgb(path), (position * self.side, 0))
        return row

    def file(self, name: str) -> Path | None:
        """Return an image's thumbnail, written if absent; None if the image is unreadable."""
        path = self.folder / f"{hashing.hash_values(name)}{self.suffix}"
        if path.is_file():
            return path
        try:
            picture = to_pil(self.probe.read(self._indices[name]))
        except (UnreadableImage, KeyError):  # file names that aren't text are escaped in tables
            return None
        thumbnail = self.made(picture)
        with atomic(path) as temporary:
            thumbnail.save(temporary, self.format, quality=self.quality)
        return path

    def made(self, picture: Image.Image) -> Image.Image:
        return ImageOps.fit(picture, (self.side, self.side))

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.probe.images)}


class NetworkInputs(Thumbnails):
    """A network's inputs with the normalisation inverted, so that activation maps align.

    If the colours can't be restored (not three channels): the image's central square.
    """

    suffix, format = (".webp", "WEBP") if features.check("webp") else (".jpg", "JPEG")
    quality = 75  # 160 pixels wide: about 4 kB

    def __init__(
        self, probe: Probe, preprocess: Transform, side: int, digest: str | None = None
    ) -> None:
        kind = ("seen", digest or hashing.hash_transform(preprocess), self.suffix)
        super().__init__(probe, side, kind)
        self.preprocess = preprocess

    @cached_property
    def colours(self) -> tuple[Float[Tensor, " 3"], Float[Tensor, "3 3"]] | None:
        return _inverse_colours(self.preprocess)

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
