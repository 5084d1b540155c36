"""The parameters that most probes share."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from clipdissect.errors import DissectError
from clipdissect.images.decode import DECODE, ORIENTATION, decoder_version
from clipdissect.probe.base import ON_ERROR

IDENTITY = ("stat", "content")

# Stands in the identity of images that are decoded fast: raise it when the code that decodes or
# resizes them changes their pixels.
FAST_VERSION = 1
# The same for images that are turned by their EXIF orientation.
TURNED_VERSION = 1


def one_of(name: str, value: str, valid: Sequence[str]) -> None:
    """Raise a DissectError unless a parameter's value is one of the valid ones."""
    if value not in valid:
        raise DissectError(f"{name} is '{value}'; it can be {' or '.join(valid)}")


def not_empty(**values: object) -> None:
    """Check that parameters that name a place were given one, where they were given at all.

    Raises:
        DissectError: an empty text or path, as an unset variable of the shell leaves. Python takes
            an empty path for the working folder, so that one must be written as text.
    """
    for name, value in values.items():
        if value == Path() or (isinstance(value, str) and not value.strip()):
            raise DissectError(
                f"probe.{name} is empty (an unset variable?). Give it a value; the text '.' is the "
                f"working folder"
            )


@dataclass(frozen=True)
class ProbeOptions:
    """Which images of a set to take, how to tell them apart, and how to read them.

    Args:
        limit: only the first so many; None takes all.
        sample: so many of those, drawn at random, in their order; None takes all.
        seed: of the draw: the same seed draws the same images everywhere.
        identity: `stat` tells a file by name, size and modification time: quick, notices whatever
            changes one of them, but not a file rewritten with the same size and time. `content`
            digests the bytes: notices every change of a file, and knows one again that was
            renamed, copied or touched; the first time it reads every file.
        decode: `pil`, the reference; `fast` decodes and resizes JPEGs with torchvision, at most a
            few grey levels apart, PIL for the rest.
        on_error: what to do with unreadable images, `skip` (counted and listed) or `raise`.
        orientation: `apply` turns images as their EXIF tag says, with either decoder; `ignore`
            doesn't, and a note counts the images that carry one. None: the set has no tags.

    Raises:
        DissectError: a value that isn't allowed.
    """

    limit: int | None = None
    sample: int | None = None
    seed: int = 0
    identity: str = "stat"
    decode: str = "pil"
    on_error: str = "skip"
    orientation: str | None = None

    def __post_init__(self) -> None:
        for name, valid in (("identity", IDENTITY), ("decode", DECODE), ("on_error", ON_ERROR)):
            one_of(f"probe.{name}", getattr(self, name), valid)
        if self.orientation is not None:
            one_of("probe.orientation", self.orientation, ORIENTATION)
        for name in ("limit", "sample"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Integral) or value < 1):
                raise DissectError(f"probe.{name} is {value!r}; it must be a number of at least 1")

    def pick(self, count: int) -> Sequence[int]:
        """Numbers of the images to take of so many, ascending.

        Raises:
            DissectError: `sample` is more than there are.
        """
        first = range(count if self.limit is None else min(self.limit, count))
        if self.sample is None:
            return first
        if self.sample > len(first):
            raise DissectError(f"probe.sample is {self.sample}, but there are {len(first)} images")
        return sorted(random.Random(self.seed).sample(first, self.sample))

    @property
    def turn(self) -> str:
        """What readers do with orientation tags."""
        return self.orientation or "ignore"

    def identities(self, each: Sequence[str], are_files: bool = True) -> tuple[str, ...]:
        """The images' identities, with the decoder and turning that their pixels depend on.

        Args:
            each: what tells an image from the others.
            are_files: whether they are decoded; arrays of pixels are as they are.
        """
        marks = [f"turned {TURNED_VERSION}"] if self.turn == "apply" else []
        marks += [f"fast {FAST_VERSION}"] if self.decode == "fast" else []
        if are_files or self.decode == "fast":  # torchvision resizes what is read fast, whatever
            marks.append(decoder_version(self.decode))
        return tuple(" ".join([*marks, one]) for one in each)

    def orientation_notes(self, tags: Iterable[int]) -> tuple[str, ...]:
        """A note with the count of images that carry a turn, and whether it was applied.

        Args:
            tags: each image's orientation, 1 for upright; looked at only where there may be some.
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
