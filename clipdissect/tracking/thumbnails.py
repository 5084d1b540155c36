"""Small pictures of a unit's top images, for trackers.

They are kept in the user cache: the next run over the same images decodes none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from clipdissect import digest
from clipdissect.files import atomic
from clipdissect.images import UnreadableImage, open_rgb
from clipdissect.paths import cache_dir
from clipdissect.probe import Probe

GREY = (128, 128, 128)


class Thumbnails:
    """Square pictures of a probe's images.

    Args:
        probe: where they are.
        side: in pixels.
    """

    def __init__(self, probe: Probe, side: int = 96) -> None:
        self.probe, self.side = probe, side
        self.folder = cache_dir() / "thumbnails" / digest.of(probe.digest, side)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.probe.images)}

    def strip(self, names: Sequence[str]) -> Image.Image:
        """The images side by side; grey where one can't be had."""
        row = Image.new("RGB", (self.side * max(1, len(names)), self.side), GREY)
        for place, name in enumerate(names):
            picture = self._of(name)
            if picture is not None:
                row.paste(picture, (place * self.side, 0))
        return row

    def _of(self, name: str) -> Image.Image | None:
        path = self.folder / f"{digest.of(name)}.jpg"
        try:
            if path.is_file():
                return open_rgb(path)
            picture = self.probe.read(self._places[name])
        except (UnreadableImage, KeyError):  # file names that aren't text stand escaped in tables
            return None
        if isinstance(picture, Tensor):
            picture = to_pil_image(picture)
        picture = ImageOps.fit(picture, (self.side, self.side))
        with atomic(path) as temporary:
            picture.save(temporary, "JPEG", quality=85)
        return picture
