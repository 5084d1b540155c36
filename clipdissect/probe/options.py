"""The parameters that most probes share."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipdissect.errors import DissectError
from clipdissect.images.decode import DECODE, ORIENTATION, decoder_version
from clipdissect.probe.base import ON_ERROR
from clipdissect.utils.type_checks import check_choice, check_fields, check_range

IDENTITY = ("stat", "content")

# Parts of the identity of images that are decoded fast, or turned by their EXIF orientation: raise
# them when the code that does so changes pixels.
FAST_VERSION = 1
TURNED_VERSION = 1


def not_empty(**values: object) -> None:
    """Raise a DissectError for an empty text or path, as an unset shell variable leaves.

    Python takes an empty path for the working folder; that one must be written as ".".
    """
    for name, value in values.items():
        if value == Path() or (isinstance(value, str) and not value.strip()):
            raise DissectError(
                f"probe.{name} is empty (an unset variable?). Give it a value; the text '.' is the "
                f"working folder"
            )


@dataclass(frozen=True)
class ProbeOptions:
    """Which images of a set to use, what identifies them, and how to decode them.

    Args:
        limit: use only the first `limit` images; None: all.
        sample: of these, draw this many at random and keep their order; None: all.
        seed: of the draw, which is the same on every machine.
        identity: `stat` identifies a file by name, size and modification time: fast, but misses a
            file rewritten with the same size and time. `content` hashes the bytes: detects every
            change, and recognises files that were renamed, copied or touched; reads every file the
            first time.
        decode: `pil`, the reference; `fast` decodes and resizes JPEGs with torchvision, at most a
            few grey levels apart, PIL for the rest.
        on_error: for unreadable images, `skip` (counted and listed) or `raise`.
        orientation: `apply` turns images by their EXIF tag, with either decoder; `ignore` doesn't,
            and a note counts the images with such a tag. None: the set has no tags.
    """

    limit: int | None = None
    sample: int | None = None
    seed: int = 0
    identity: str = "stat"
    decode: str = "pil"
    on_error: str = "skip"
    orientation: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "probe.")
        check_choice("probe.identity", self.identity, IDENTITY)
        check_choice("probe.decode", self.decode, DECODE)
        check_choice("probe.on_error", self.on_error, ON_ERROR)
        if self.orientation is not None:
            check_choice("probe.orientation", self.orientation, ORIENTATION)
        for name in ("limit", "sample"):
            if getattr(self, name) is not None:
                check_range(f"probe.{name}", getattr(self, name), 1)

    def pick(self, count: int) -> Sequence[int]:
        """Return the indices of the images to use out of `count`, ascending."""
        first = range(count if self.limit is None else min(self.limit, count))
        if self.sample is None:
            return first
        if self.sample > len(first):
            raise DissectError(f"probe.sample is {self.sample}, but there are {len(first)} images")
        return sorted(random.Random(self.seed).sample(first, self.sample))

    @property
    def reading(self) -> dict[str, str]:
        """Keyword arguments of `open_picture` and `decode_picture`."""
        return {"decode": self.decode, "orientation": self.orientation or "ignore"}

    def identities(self, identities: Sequence[str], are_files: bool = True) -> tuple[str, ...]:
        """Prefix the images' identities with the decoder and turning that pixels depend on.

        Args:
            identities: per image.
            are_files: whether images are decoded; arrays of pixels depend on no decoder.
        """
        marks = [f"turned {TURNED_VERSION}"] if self.orientation == "apply" else []
        marks += [f"fast {FAST_VERSION}"] if self.decode == "fast" else []
        if are_files or self.decode == "fast":  # torchvision resizes whatever is read fast
            marks.append(decoder_version(self.decode))
        return tuple(" ".join([*marks, identity]) for identity in identities)

    def orientation_notes(self, tags: Iterable[int]) -> tuple[str, ...]:
        """Return a note with the number of images whose EXIF tag, 1 to 8, isn't 1 (upright).

        Args:
            tags: per image; not consumed where the set has no tags.
        """
        count = sum(tag != 1 for tag in tags) if self.orientation else 0
        if not count:
            return ()
        if self.orientation == "apply":
            return (f"images turned upright by their EXIF orientation: {count}",)
        return (
            f"images with an EXIF orientation that isn't applied: {count} (set "
            f"probe.orientation=apply to turn them upright)",
        )
