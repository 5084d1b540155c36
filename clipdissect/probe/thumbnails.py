"""Small pictures of a probe's images, for trackers and reports.

They are kept in the user cache: the next run over the same images decodes none of them.
"""

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
    """Square pictures of a probe's images.

    Args:
        probe: where they are.
        side: in pixels.
        kind: what they depend on besides, where a subclass makes other pictures.
    """

    suffix, format, quality = ".jpg", "JPEG", 85

    def __init__(self, probe: Probe, side: int = 96, kind: Sequence[str] = ()) -> None:
        self.probe, self.side = probe, side
        self.folder = cache_dir() / "thumbnails" / hashing.hash_values(probe.digest, side, *kind)
        note_use(self.folder)

    def strip(self, names: Sequence[str]) -> Image.Image:
        """The images side by side; grey where one can't be had."""
        row = Image.new("RGB", (self.side * max(1, len(names)), self.side), GREY)
        for place, name in enumerate(names):
            path = self.file(name)
            if path is not None:
                row.paste(open_rgb(path), (place * self.side, 0))
        return row

    def file(self, name: str) -> Path | None:
        """The cached picture of an image, made now if need be; None where it can't be had."""
        path = self.folder / f"{hashing.hash_values(name)}{self.suffix}"
        if path.is_file():
            return path
        try:
            picture = self.probe.read(self._places[name])
        except (UnreadableImage, KeyError):  # file names that aren't text stand escaped in tables
            return None
        made = self.made(to_pil_image(picture) if isinstance(picture, Tensor) else picture)
        with atomic(path) as temporary:
            made.save(temporary, self.format, quality=self.quality)
        return path

    def made(self, picture: Image.Image) -> Image.Image:
        """The thumbnail of a picture: the largest square in its middle."""
        return ImageOps.fit(picture, (self.side, self.side))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.probe.images)}
