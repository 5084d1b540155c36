"""A probe: the images a network is shown."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, Generic, TypeVar

from clipdissect.datasets.segmentation import SegmentationLabels
from clipdissect.errors import DissectError
from clipdissect.images.decode import Picture
from clipdissect.utils import hashing

ON_ERROR = ("skip", "raise")

# Raise it when the code that decodes images to 8-bit RGB changes the pixels of any kind of file.
DECODERS_VERSION = 2

T = TypeVar("T")
Labels = tuple[str | None, ...]


@dataclass(frozen=True)
class Probe:
    """`D_probe`: an ordered image set.

    Args:
        name: what to call it in results.
        images: each image's name, unique, such as its path below the probe's folder.
        read: decodes image `i` to RGB: a PIL image or, with `decode=fast`, a uint8 tensor
            `[3, h, w]`; raises `images.UnreadableImage`.
        digest: changes whenever an image's identity does (see the function that made the probe).
        on_error: `skip` leaves unreadable images out, counted and listed; `raise` stops at one.
        notes: what a reader of the results must know about the images.
        identities: what tells each image from others, such that equal identities mean equal
            pixels; `of` makes the digest from them.
        labels: each image's class in words, None for an image without; None where no image has.
        file: the file of image `i`, or None where it isn't a file of its own.
        origins: the part that each image comes from; None: the probe itself.
        parts: the probes that this one is the concatenation of, in order; empty for a plain one.
        masks: which pixels show which concepts, where that is known. The digest is of the images
            alone; the masks have their own.

    Raises:
        DissectError: no images, a name twice, an unknown `on_error`, or fields of another length
            than `images`.
    """

    name: str
    images: tuple[str, ...]
    read: Callable[[int], Picture]
    digest: str
    on_error: str = "skip"
    notes: tuple[str, ...] = ()
    identities: tuple[str, ...] | None = None
    labels: Labels | None = None
    file: Callable[[int], Path | None] | None = None
    origins: tuple[str, ...] | None = None
    parts: tuple[Probe, ...] = ()
    masks: SegmentationLabels | None = None

    def __post_init__(self) -> None:
        if self.on_error not in ON_ERROR:
            raise DissectError(f"on_error is '{self.on_error}'; it can be {' or '.join(ON_ERROR)}")
        if not self.images:
            raise DissectError(f"probe {self.name} has no images")
        if len(set(self.images)) < len(self.images):
            twice = next(name for name, n in Counter(self.images).items() if n > 1)
            raise DissectError(f"probe {self.name} has two images of the name {twice}")
        for field in ("identities", "labels", "origins", "masks"):
            values = getattr(self, field)
            if values is not None and len(values) != len(self.images):
                raise DissectError(
                    f"probe {self.name} has {len(self.images)} images, but {len(values)} {field}"
                )

    @classmethod
    def of(
        cls,
        name: str,
        images: Sequence[str],
        read: Callable[[int], Picture],
        identities: Sequence[str],
        **fields: Any,
    ) -> Probe:
        """A probe whose digest is made from its images' identities, and from nothing else."""
        each = tuple(identities)
        return cls(name, tuple(images), read, _digest(each), identities=each, **fields)

    def __len__(self) -> int:
        return len(self.images)

    def path(self, index: int) -> Path | None:
        """The file of an image, None where it isn't a file of its own (read it instead)."""
        return self.file(index) if self.file else None

    def origin(self, index: int) -> str:
        """Name of the part that an image comes from; the probe's own name where it has no parts."""
        return self.origins[index] if self.origins else self.name

    def noting(self, note: str) -> Probe:
        """The same probe with one more note."""
        return replace(self, notes=(*self.notes, note))

    def subset(self, indices: Sequence[int]) -> Probe:
        """The images of the given numbers, in the given order.

        The digest is that of any probe with the same images in the same order, however chosen. A
        subset of a union keeps its `parts` where the order keeps each part's images together.

        Raises:
            DissectError: no indices, one twice, or one outside of the probe.
        """
        chosen = tuple(indices)
        if len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(len(self))):
            raise DissectError(f"a subset of {len(self)} images takes distinct numbers below that")
        if chosen == tuple(range(len(self))):
            return self
        identities = _at(self.identities, chosen)
        return replace(
            self,
            images=tuple(self.images[i] for i in chosen),
            read=Renumbered(self.read, chosen),
            digest=_digest(identities)
            if identities
            else hashing.hash_values("subset", self.digest, chosen),
            identities=identities,
            labels=_at(self.labels, chosen),
            file=Renumbered(self.file, chosen) if self.file else None,
            origins=_at(self.origins, chosen),
            parts=_parts_of(self.parts, chosen),
            masks=self.masks.subset(chosen) if self.masks else None,
        )


@dataclass(frozen=True)
class Renumbered(Generic[T]):
    """A function of an image's number, for a subset of the images."""

    function: Callable[[int], T]
    numbers: tuple[int, ...]

    def __call__(self, index: int) -> T:
        return self.function(self.numbers[index])


def _digest(identities: tuple[str, ...]) -> str:
    return hashing.hash_values("images", DECODERS_VERSION, identities)


def _at(values: tuple[T, ...] | None, indices: Sequence[int]) -> tuple[T, ...] | None:
    return None if values is None else tuple(values[i] for i in indices)


def _parts_of(parts: tuple[Probe, ...], chosen: Sequence[int]) -> tuple[Probe, ...]:
    """Subsets of the parts whose concatenation is the subset; none where the order mixes them."""
    starts = [0, *accumulate(map(len, parts))]
    runs = [(n, list(run)) for n, run in groupby(chosen, lambda i: bisect_right(starts, i) - 1)]
    if not parts or len({n for n, _ in runs}) < len(runs):
        return ()
    return tuple(parts[n].subset([i - starts[n] for i in run]) for n, run in runs)
