"""A probe: the images a network is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image

from clipdissect.errors import DissectError

ON_ERROR = ("skip", "raise")


@dataclass(frozen=True)
class Probe:
    """`D_probe`: an ordered image set.

    Args:
        name: what to call it in results.
        images: each image's name, unique, such as its path below the probe's folder.
        read: decodes image `i` to RGB; raises `images.UnreadableImage`.
        digest: changes whenever an image's identity does (see the function that made the probe).
        on_error: `skip` leaves unreadable images out, counted and listed; `raise` stops at one.
        notes: what a reader of the results must know about the images.

    Raises:
        DissectError: no images, or an unknown `on_error`.
    """

    name: str
    images: tuple[str, ...]
    read: Callable[[int], Image.Image]
    digest: str
    on_error: str = "skip"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise DissectError(f"on_error is '{self.on_error}'; it can be {' or '.join(ON_ERROR)}")
        if not self.images:
            raise DissectError(f"probe {self.name} has no images")

    def __len__(self) -> int:
        return len(self.images)

    def noting(self, note: str) -> Probe:
        """The same probe with one more note."""
        return replace(self, notes=(*self.notes, note))
