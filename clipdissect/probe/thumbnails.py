"""Thumbnails of a probe's images, for trackers and reports; cached in the user cache."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from clipdissect.images.decode import UnreadableImage, open_rgb
from clipdissect.probe import Probe
from clipdissect.utils import hashing
from clipdissect.utils.files import atomic, note_use
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
            picture = self.probe.read(self._indices[name])
        except (UnreadableImage, KeyError):  # file names that aren't text are escaped in tables
            return None
        thumbnail = self.made(to_pil_image(picture) if isinstance(picture, Tensor) else picture)
        with atomic(path) as temporary:
            thumbnail.save(temporary, self.format, quality=self.quality)
        return path

    def made(self, picture: Image.Image) -> Image.Image:
        return ImageOps.fit(picture, (self.side, self.side))

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.probe.images)}
