"""A probe: the images a network is shown."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, TypeVar

from clipdissect.datasets.segmentation import SegmentationLabels
from clipdissect.errors import DissectError
from clipdissect.images.decode import Picture
from clipdissect.utils import hashing
from clipdissect.utils.type_checks import check_choice

ON_ERROR = ("skip", "raise")

# Raise it when the code that decodes images to 8-bit RGB changes the pixels of any file format.
DECODERS_VERSION = 2

T = TypeVar("T")
Labels = tuple[str | None, ...]


@dataclass(frozen=True)
class Probe:
    """`D_probe`: an ordered image set.

    Args:
        name: as shown in results.
        images: the images' unique names, such as paths below the probe's folder.
        read: decodes image `i` to RGB: a PIL image or, with `decode=fast`, a uint8 tensor
            `[3, h, w]`; raises `UnreadableImage`.
        digest: cache key; changes with any image's identity.
        on_error: `skip` leaves unreadable images out, counted and listed; `raise` stops.
        notes: remarks on the images for readers of the results.
        identities: per image, equal only for equal pixels; `of` hashes them into the digest.
        labels: class name per image, None for an unlabelled one; None if no image is labelled.
        file: path of image `i`, None if it isn't a file of its own.
        origins: per image the name of the part it comes from; None: the probe itself.
        parts: the probes that this one concatenates, in order; empty if it isn't a union.
        masks: segmentation labels, if known; the digest doesn't cover them.

    Raises:
        DissectError: no images, a repeated name, an unknown `on_error`, or a field whose length
            isn't that of `images`.
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
        check_choice("on_error", self.on_error, ON_ERROR)
        if not self.images:
            raise DissectError(f"probe {self.name} has no images")
        name, count = Counter(self.images).most_common(1)[0]
        if count > 1:
            raise DissectError(f"probe {self.name} has two images of the name {name}")
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
        """Return a probe whose digest depends on its images' identities alone."""
        identities = tuple(identities)
        return cls(name, tuple(images), read, _digest(identities), identities=identities, **fields)

    def __len__(self) -> int:
        return len(self.images)

    def path(self, index: int) -> Path | None:
        """Return an image's file, None if it isn't a file of its own."""
        return self.file(index) if self.file else None

    def origin(self, index: int) -> str:
        """Return the name of the part that an image comes from, else the probe's name."""
        return self.origins[index] if self.origins else self.name

    def subset(self, indices: Sequence[int]) -> Probe:
        """Return the images at the indices, in that order.

        The digest is that of any probe with the same images in the same order. A subset of a union
        keeps `parts` if the order keeps each part's images together.

        Raises:
            DissectError: no indices, or repeated or invalid ones.
        """
        chosen = tuple(indices)
        if len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(len(self))):
            raise DissectError(f"a subset of {len(self)} images takes distinct numbers below that")
        if chosen == tuple(range(len(self))):
            return self
        identities = _take(self.identities, chosen)
        return replace(
            self,
            images=tuple(self.images[i] for i in chosen),
            read=partial(_call_at, self.read, chosen),
            digest=_digest(identities)
            if identities
            else hashing.hash_values("subset", self.digest, chosen),
            identities=identities,
            labels=_take(self.labels, chosen),
            file=partial(_call_at, self.file, chosen) if self.file else None,
            origins=_take(self.origins, chosen),
            parts=_subset_parts(self.parts, chosen),
            masks=self.masks.subset(chosen) if self.masks else None,
        )


# Partial applications of module functions, unlike closures, can be sent to worker processes.
def _call_at(function: Callable[[int], T], indices: Sequence[int], index: int) -> T:
    return function(indices[index])


def _digest(identities: tuple[str, ...]) -> str:
    return hashing.hash_values("images", DECODERS_VERSION, identities)


def _take(values: tuple[T, ...] | None, indices: Sequence[int]) -> tuple[T, ...] | None:
    return None if values is None else tuple(values[i] for i in indices)


def _subset_parts(parts: tuple[Probe, ...], chosen: Sequence[int]) -> tuple[Probe, ...]:
    """Subsets of the parts whose concatenation is the subset; none if the order mixes parts."""
    starts = [0, *accumulate(map(len, parts))]
    runs = [(n, list(run)) for n, run in groupby(chosen, lambda i: bisect_right(starts, i) - 1)]
    if not parts or len({n for n, _ in runs}) < len(runs):
        return ()
    return tuple(parts[n].subset([i - starts[n] for i in run]) for n, run in runs)
