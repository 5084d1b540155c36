"""Parameters that most probes share."""

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

# Part of the identities of images decoded as tensors, or turned by EXIF orientation: increment when
# that code changes pixels.
FAST_VERSION = 1
TURNED_VERSION = 1


def not_empty(**values: object) -> None:
    """Raise a DissectError if a text or path is empty, as from an unset shell variable."""
    for name, value in values.items():  # Path("") is the working folder
        if value == Path() or (isinstance(value, str) and not value.strip()):
            raise DissectError(
                f"probe.{name} is empty (an unset variable?). Give it a value; the text '.' is the "
                f"working folder"
            )


@dataclass(frozen=True)
class ProbeOptions:
    """The images of a set to use, how to identify them, and how to decode them.

    Args:
        limit: use only the first `limit` images; None: all.
        sample: draw this many of them at random, in order; None: all.
        seed: of the draw; the same on every machine.
        identity: `stat` (name, size, mtime) is fast, but misses a file rewritten with the
            same size and time; `content` (bytes) detects every change.
        decode: `pil`; `fast`: JPEGs with torchvision, a few grey levels apart; or `gpu`: JPEGs and
            resizing on the GPU.
        on_error: for unreadable images, `skip` (counted and listed) or `raise`.
        orientation: `apply` or `ignore` (noted) EXIF tags; None: the set has none.
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
    def on_gpu(self) -> bool:
        """Whether images are decoded and resized by the GPU."""
        return self.decode == "gpu"

    @property
    def reading(self) -> dict[str, str]:
        return {"decode": self.decode, "orientation": self.orientation or "ignore"}

    def identities(self, identities: Sequence[str], are_files: bool = True) -> tuple[str, ...]:
        """Prefix identities with the decoder and turning that the pixels depend on."""
        # Arrays of pixels (`are_files=False`) depend on no decoder.
        marks = [f"turned {TURNED_VERSION}"] if self.orientation == "apply" else []
        marks += [f"{self.decode} {FAST_VERSION}"] if self.decode != "pil" else []
        if are_files or self.decode != "pil":  # torchvision resizes images that are read as tensors
            marks.append(decoder_version(self.decode))
        return tuple(" ".join([*marks, identity]) for identity in identities)

    def orientation_notes(self, tags: Iterable[int]) -> tuple[str, ...]:
        """Note the number of images whose EXIF tag isn't 1 (upright)."""
        count = sum(tag != 1 for tag in tags) if self.orientation else 0
        if not count:
            return ()
        if self.orientation == "apply":
            return (f"images turned upright by their EXIF orientation: {count}",)
        return (
            f"images with an EXIF orientation that isn't applied: {count} (set "
            f"probe.orientation=apply to turn them upright)",
        )
