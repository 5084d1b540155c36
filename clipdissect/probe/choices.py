"""The parameters that most probes share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from clipdissect.errors import DissectError
from clipdissect.images import DECODE, decoder_version
from clipdissect.probe.base import ON_ERROR

IDENTITY = ("stat", "content")

# Stands in the identity of images that are decoded fast: raise it when the code that decodes or
# resizes them changes their pixels.
FAST_VERSION = 1


def one_of(name: str, value: str, valid: Sequence[str]) -> None:
    """Raise a DissectError unless a parameter's value is one of the valid ones."""
    if value not in valid:
        raise DissectError(f"{name} is '{value}'; it can be {' or '.join(valid)}")


@dataclass(frozen=True)
class Choices:
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

    Raises:
        DissectError: a value that isn't allowed.
    """

    limit: int | None = None
    sample: int | None = None
    seed: int = 0
    identity: str = "stat"
    decode: str = "pil"
    on_error: str = "skip"

    def __post_init__(self) -> None:
        for name, valid in (("identity", IDENTITY), ("decode", DECODE), ("on_error", ON_ERROR)):
            one_of(f"probe.{name}", getattr(self, name), valid)
        for name in ("limit", "sample"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DissectError(f"probe.{name} is {value}; it must be at least 1")

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

    def identities(self, each: Sequence[str], are_files: bool = True) -> tuple[str, ...]:
        """The images' identities, with the decoder that their pixels depend on.

        Args:
            each: what tells an image from the others.
            are_files: whether they are decoded; arrays of pixels are as they are.
        """
        marks = [f"fast {FAST_VERSION}"] if self.decode == "fast" else []
        if are_files or marks:  # torchvision resizes what is read fast, whatever it was
            marks.append(decoder_version(self.decode))
        return tuple(" ".join([*marks, one]) for one in each)
