"""The interface of sources of images that show a text."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from clipdissect.probe import Probe


@runtime_checkable
class TextImages(Protocol):
    """Images that show what a text says, such as photographs of a zebra for "zebra"."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str:
        """A hash of whatever the images depend on."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for readers of the results."""

    def images_of(self, text: str) -> Probe | None:
        """Return the text's images; None if the source has none."""
