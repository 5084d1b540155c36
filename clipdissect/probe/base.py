"""A probe: the images that a network is shown."""

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
from clipdissect.utils.short_repr import count, short_repr
from clipdissect.utils.type_checks import check_choice

ON_ERROR = ("skip", "raise")

# Increment when decoding to 8-bit RGB changes the pixels of any file format.
DECODERS_VERSION = 2

T = TypeVar("T")
Labels = tuple[str | None, ...]


@dataclass(frozen=True)
class Probe:
    """A probe, the paper's `D_probe`: an ordered image set."""

    name: str
    images: tuple[str, ...]  # unique names, such as paths below the probe's folder
    read: Callable[[int], Picture]  # decodes image `i`; raises UnreadableImage
    digest: str  # cache key; changes with any image's identity, not with the masks
    on_error: str = "skip"  # unreadable images are skipped, counted and listed, or raise
    notes: tuple[str, ...] = ()  # remarks for readers of the results
    identities: tuple[str, ...] | None = None  # per image; equal only for equal pixels
    labels: Labels | None = None  # class name per image, None for an unlabelled image
    file: Callable[[int], Path | None] | None = None  # path of image `i`, if it is a file
    origins: tuple[str, ...] | None = None  # name of the part per image; None: the probe
    parts: tuple[Probe, ...] = ()  # of a union, in order
    masks: SegmentationLabels | None = None
    on_gpu: bool = False  # its pictures are decoded or resized by the GPU

    def __post_init__(self) -> None:
        check_choice("on_error", self.on_error, ON_ERROR)
        if not self.images:
            raise DissectError(f"probe {self.name} has no images")
        name, count = Counter(self.images).most_common(1)[0]
        if count > 1:
            raise DissectError(f"probe {self.name} has two images named {name}")
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

    def __repr__(self) -> str:
        return short_repr(self, count(len(self), "image"))

    def __len__(self) -> int:
        return len(self.images)

    def path(self, index: int) -> Path | None:
        return self.file(index) if self.file else None

    def numbers(self, images: Sequence[str]) -> list[int]:
        """Return the indices of images by name; raise a DissectError for an unknown one."""
        number = {image: i for i, image in enumerate(self.images)}
        for image in images:
            if image not in number:
                raise DissectError(f"probe {self.name} has no image {image}")
        return [number[image] for image in images]

    def origin(self, index: int) -> str:
        """Return the name of the image's part in a union, else the probe's name."""
        return self.origins[index] if self.origins else self.name

    def subset(self, indices: Sequence[int]) -> Probe:
        """Return the images at the indices, in that order; equal subsets have equal digests."""
        chosen = tuple(indices)
        if len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(len(self))):
            raise DissectError(f"subset indices must be distinct and below {len(self)}")
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
    starts = [0, *accumulate(map(len, parts))]
    runs = [(n, list(run)) for n, run in groupby(chosen, lambda i: bisect_right(starts, i) - 1)]
    if not parts or len({n for n, _ in runs}) < len(runs):  # the order mixes parts
        return ()
    return tuple(parts[n].subset([i - starts[n] for i in run]) for n, run in runs)
