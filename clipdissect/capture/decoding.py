"""Decode batches of images in processes, through memory that they share.

A process decodes an *item*, a part of a batch, into a slot of the shared memory. Messages between
processes hold numbers of images and slots, and no pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from clipdissect.capture.device_copies import DeviceCopies
from clipdissect.capture.workers import workers_that_fit
from clipdissect.errors import DissectError
from clipdissect.images.decode import Picture, UnreadableImage
from clipdissect.images.transforms import SplitTransform
from clipdissect.probe import Probe
from clipdissect.utils.timing import Timers

ITEM = 32  # images that a process decodes at a time: fewer than a batch, so that the first is early
PREFETCH = 2  # items that wait for each process


class DecodeError(NamedTuple):
    """An image (by probe number) that can't be decoded; a transient one is retried."""

    image: int
    reason: str
    transient: bool


@dataclass(frozen=True)
class BatchRequest:
    """A batch to decode: probe numbers of its images, and numbers of the transforms."""

    images: range
    transforms: tuple[int, ...]


def batch_requests(
    images: range, batch_size: int, transforms: tuple[int, ...]
) -> list[BatchRequest]:
    firsts = range(0, len(images), batch_size)
    return [BatchRequest(images[first : first + batch_size], transforms) for first in firsts]


@dataclass(frozen=True)
class Batch:
    """A decoded batch: probe numbers, inputs by transform, and unreadable images.

    Inputs lie on the device: 8-bit pixels for `SplitTransform.finish`, or what the transform gave.
    """

    indices: Tensor
    inputs: dict[int, Tensor]  # empty if no image is readable
    skipped: list[DecodeError]


class Transforms:
    """Transforms by number; those with equal steps on pictures share their pixels."""

    def __init__(self, transforms: Sequence[SplitTransform]) -> None:
        self.transforms = tuple(transforms)
        first: dict[Any, int] = {}
        # Whole outputs aren't shared: a network may overwrite its input.
        self.same = [
            first.setdefault(transform.steps, number) if transform.batch_steps else number
            for number, transform in enumerate(transforms)
        ]

    def distinct(self, numbers: Sequence[int]) -> list[int]:
        """Return the numbers of the transforms whose pixels these need."""
        return sorted({self.same[number] for number in numbers})

    def pixels(self, picture: Picture, numbers: Sequence[int]) -> dict[int, Tensor]:
        """Return the distinct pixels `[channels, h, w]` that the transforms need."""
        return {n: self.transforms[n].pixels(picture) for n in self.distinct(numbers)}

    def inputs(self, pixels: dict[int, Tensor], numbers: Sequence[int]) -> dict[int, Tensor]:
        """Return each transform's pixels out of the distinct ones."""
        return {n: pixels[self.same[n]] for n in numbers if self.same[n] in pixels}


class _Item(NamedTuple):
    slot: int
    request: BatchRequest


@dataclass
class _Decoded:
    """An item: the images in its slot, in order, and the others."""

    slot: int
    images: list[int] = field(default_factory=list)
    skipped: list[DecodeError] = field(default_factory=list)
    # A value: an exception raised in a worker process changes its type and message.
    error: DissectError | None = None


class _Slots(Dataset[_Decoded]):
    """Memory for items; `slots[item]` decodes one, in any process."""

    def __init__(self, probe: Probe, transforms: Transforms, size: int, count: int) -> None:
        self.probe, self.transforms = probe, transforms
        self.size, self.count = size, count
        self.arrays: dict[int, Tensor] = {}  # by transform, `[images, h, w, channels]`

    def allocate(self, sample: dict[int, Tensor], shared: bool) -> None:
        """Allocate the memory for pixels like these."""
        for number, pixels in sample.items():
            # Channels last, as decoders write and GPUs read them.
            shape = (self.size * self.count, *pixels.shape[1:], len(pixels))
            array: Any = torch.empty(shape, dtype=pixels.dtype)
            self.arrays[number] = array.share_memory_() if shared else array

    def __getitem__(self, item: _Item) -> _Decoded:
        decoded = _Decoded(item.slot)
        for index in item.request.images:
            try:
                picture = self.probe.read(index)
                row = item.slot * self.size + len(decoded.images)
                found = self.transforms.pixels(picture, item.request.transforms)
                # Already allocated where other processes share it.
                self.allocate({n: found[n] for n in found if n not in self.arrays}, shared=False)
                for number, pixels in found.items():
                    self._write(number, row, pixels)
            except UnreadableImage as error:
                decoded.skipped.append(DecodeError(index, error.reason, error.transient))
            except DissectError as error:
                decoded.error = error
                break
            else:
                decoded.images.append(index)
        return decoded

    def decoded(self, parts: Sequence[Sequence[BatchRequest]], workers: int) -> Iterator[_Decoded]:
        """Decode the parts of batches, in order; the slots are used in turn."""
        slot = cycle(range(self.count))
        loader = DataLoader(
            self,
            # A generator, since the items of a large probe take memory.
            sampler=(_Item(next(slot), part) for of_batch in parts for part in of_batch),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        )
        return iter(loader)

    def _write(self, number: int, row: int, pixels: Tensor) -> None:
        target = self.arrays[number][row].movedim(-1, 0)
        if target.shape != pixels.shape or target.dtype != pixels.dtype:
            raise shapes_differ([target, pixels])
        target.copy_(pixels)

    def images(self, number: int, items: Sequence[_Decoded]) -> list[Tensor]:
        """Return the decoded images of items, `[images, h, w, channels]` each."""
        rows = [(item.slot * self.size, len(item.images)) for item in items]
        return [self.arrays[number][first : first + count] for first, count in rows if count]

    def batch(
        self, request: BatchRequest, items: Sequence[_Decoded], copies: DeviceCopies
    ) -> Batch:
        """Put the items of a batch together on the device."""
        for item in items:
            if item.error:
                raise item.error
        images = [image for item in items for image in item.images]
        skipped = [error for item in items for error in item.skipped]
        numbers = self.transforms.distinct(request.transforms) if images else []
        pixels = {n: copies.concatenate(self.images(n, items)).movedim(-1, 1) for n in numbers}
        inputs = self.transforms.inputs(pixels, request.transforms)
        return Batch(torch.tensor(images, dtype=torch.int64), inputs, skipped)


def shapes_differ(tensors: Sequence[Tensor]) -> DissectError:
    """Return the error of a transform whose outputs don't fit into one batch."""
    listed = " and ".join(str(shape) for shape in sorted({tuple(t.shape) for t in tensors})[:2])
    return DissectError(
        f"preprocess gave tensors of different shapes, {listed}: it must give one size (add a crop)"
    )


def decode_in_slots(
    probe: Probe,
    transforms: Transforms,
    requests: Sequence[BatchRequest],
    workers: int,
    copies: DeviceCopies,
    timers: Timers,
) -> Iterator[Batch]:
    """Yield the requested batches; `workers` processes decode them, or this one."""
    size = min(ITEM, max(len(request.images) for request in requests))
    parts = [batch_requests(r.images, size, r.transforms) for r in requests]

    def count(workers: int) -> int:
        # An item is handed out when an earlier one comes back, after the batches that are queued on
        # the device and a part of another one; a slot is free when its batch has been computed.
        return PREFETCH * workers + (copies.ahead + 1) * max(map(len, parts))

    sample: dict[int, Tensor] = {}
    if workers:
        with timers.stage("decode"):
            sample = _first_pixels(probe, transforms, requests)
        bytes_an_item = size * sum(pixels.nbytes for pixels in sample.values())
        fit = workers_that_fit(workers, lambda workers: count(workers) * bytes_an_item)
        workers = fit if sample else 0  # without a readable image nothing can be shared
    slots = _Slots(probe, transforms, size, count(workers))
    slots.allocate(sample, shared=workers > 0)
    stream = slots.decoded(parts, workers)
    # After the processes were started, so that they don't inherit pinned memory.
    try:
        with copies.pinned(slots.arrays.values()):
            for request, of_request in zip(requests, parts, strict=True):
                with timers.stage("decode"):
                    items = [next(stream) for _ in of_request]
                    batch = slots.batch(request, items, copies)
                yield batch
                with timers.stage("forward"):
                    copies.wait()
    finally:
        del stream  # ends the processes, even if an error's traceback refers to this frame


def _first_pixels(
    probe: Probe, transforms: Transforms, requests: Sequence[BatchRequest]
) -> dict[int, Tensor]:
    """Return the pixels of the first readable image; empty if there is none."""
    numbers = tuple({number for request in requests for number in request.transforms})
    for index in (index for request in requests for index in request.images):
        with suppress(UnreadableImage):
            return transforms.pixels(probe.read(index), numbers)
    return {}
