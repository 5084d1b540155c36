"""Batches of decoded and preprocessed images."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.images.decode import UnreadableImage
from clipdissect.images.transforms import apply
from clipdissect.probe import Probe
from clipdissect.utils.hashing import Transform

log = logging.getLogger(__name__)

LOG_EVERY_S = 20.0
SHARED = "/dev/shm"
# Shared memory that workers need: as many as we choose, and any at all (Docker gives 64 MB).
SHARED_BYTES = 500_000_000
SHARED_LEAST = 100_000_000


@dataclass(frozen=True)
class DecodeError:
    """An image that couldn't be decoded.

    Args:
        index: its number in the probe.
        reason: what the decoder said.
        transient: whether another try may succeed.
    """

    index: int
    reason: str
    transient: bool


@dataclass(frozen=True)
class BatchRequest:
    """A batch to decode.

    Args:
        images: their numbers in the probe.
        transforms: which transforms to apply, by number.
    """

    images: range
    transforms: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Decoded images.

    Args:
        indices: their numbers in the probe, `[images]`.
        inputs: transform's number to `[images, channels, h, w]`; empty where no image was readable.
        skipped: the images of the batch that weren't.
        error: a mistake that stops the pass; a value, since an exception that crosses from a worker
            process loses its wording.
    """

    indices: Tensor
    inputs: dict[int, Tensor]
    skipped: list[DecodeError]
    error: DissectError | None = None

    def pin_memory(self) -> Batch:
        """The batch in memory that a GPU copies from without waiting; the data loader asks."""
        return replace(self, inputs={n: images.pin_memory() for n, images in self.inputs.items()})


_Item = dict[int, Tensor] | DecodeError | DissectError
_Key = tuple[int, tuple[int, ...]]


class _Decoded(Dataset[tuple[int, _Item]]):
    """Decodes an image once and applies the transforms asked for."""

    def __init__(self, probe: Probe, transforms: Sequence[Transform]) -> None:
        self.probe, self.transforms = probe, tuple(transforms)

    def __len__(self) -> int:
        return len(self.probe)

    def __getitem__(self, key: _Key) -> tuple[int, _Item]:
        index, wanted = key
        try:
            picture = self.probe.read(index)
        except UnreadableImage as error:
            return index, DecodeError(index, error.reason, error.transient)
        except DissectError as error:
            return index, error
        return index, {number: apply(self.transforms[number], picture) for number in wanted}


class _Keys:
    """The requests as the data loader wants them, made as it goes: they may be many."""

    def __init__(self, requests: Sequence[BatchRequest]) -> None:
        self.requests = requests

    def __len__(self) -> int:
        return len(self.requests)

    def __iter__(self) -> Iterator[list[_Key]]:
        for request in self.requests:
            yield [(index, request.transforms) for index in request.images]


def batches(
    probe: Probe, transforms: Sequence[Transform], requests: Sequence[BatchRequest], workers: int
) -> Generator[Batch, None, None]:
    """The batches asked for, in order, every image decoded once, with a progress bar.

    Args:
        probe: the images.
        transforms: PIL image to tensor.
        requests: which images and transforms make a batch.
        workers: processes that decode; 0 decodes in this one.

    Raises:
        DissectError: an image can't be read and the probe says `raise`; or a transform gives
            tensors of different shapes; or a decoding process died.
    """
    loader = DataLoader(
        _Decoded(probe, transforms), batch_sampler=_Keys(requests), num_workers=workers,
        collate_fn=_collate, pin_memory=torch.cuda.is_available(),
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )  # fmt: skip
    total = sum(len(request.images) for request in requests)
    with tqdm(total=total, desc="images", unit="img", disable=None) as bar:
        report = _LogProgress(total, quiet=not bar.disable)
        for batch in _alive(loader):
            if batch.error:
                raise batch.error
            if probe.on_error == "raise" and batch.skipped:
                first = batch.skipped[0]
                raise DissectError(f"can't read {probe.images[first.index]}: {first.reason}")
            yield batch
            done = len(batch.indices) + len(batch.skipped)
            bar.update(done)
            report.update(done)


def workers_for(settings: Settings) -> int:
    """Decoding processes: as asked for where they can share memory, or by default
    `default_workers`."""
    if settings.workers is None:
        return default_workers(settings.torch_device)
    return settings.workers if settings.workers == 0 or _can_share(SHARED_LEAST) else 0


def default_workers(device: str) -> int:
    """Decoding processes: up to 8; none where starting one would have to pickle the transforms.

    Nor are there any where little memory can be shared, as in a container with Docker's 64 MB.
    Where the networks run on the CPU, a worker that preempts one of their threads makes all of them
    wait: one for every four cores (on two cores, two workers took a quarter of the speed away).

    Args:
        device: where the networks run.
    """
    if sys.platform != "linux":
        return 0
    if not _can_share(SHARED_BYTES):
        return 0
    cores = len(os.sched_getaffinity(0))
    return min(8, cores if torch.device(device).type != "cpu" else cores // 4)


def _can_share(least: int) -> bool:
    """Whether there is so much shared memory, through which workers hand over their images."""
    if sys.platform != "linux":
        return True
    try:
        free = shutil.disk_usage(SHARED).free
    except OSError:  # there is none
        free = 0
    if free < least:
        log.warning(
            "too little shared memory for decoding processes (%s: %d MB): decoding in this one",
            SHARED, free // 1_000_000,
        )  # fmt: skip
    return free >= least


def _alive(loader: Iterable[Batch]) -> Iterator[Batch]:
    """The loader's batches; the death of a worker in words."""
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DissectError(
            f"a decoding process died ({' '.join(str(error).split())[:200]}): it may have had too "
            f"little memory, or too little shared memory ({SHARED}; of Docker: --shm-size). Use "
            f"capture.workers=0, or fewer"
        ) from error


class _LogProgress:
    """Progress as log lines, for where there is no terminal."""

    def __init__(self, total: int, quiet: bool) -> None:
        self.total, self.quiet, self.done = total, quiet, 0
        self.start = self.last = time.monotonic()

    def update(self, done: int) -> None:
        self.done += done
        now = time.monotonic()
        if self.quiet or (now - self.last < LOG_EVERY_S and self.done < self.total):
            return
        rate = self.done / max(now - self.start, 1e-9)
        left = (self.total - self.done) / rate
        log.info("images %d/%d, %.1f/s, %.0f s left", self.done, self.total, rate, left)
        self.last = now


def _collate(items: list[tuple[int, _Item]]) -> Batch:
    good = [(index, got) for index, got in items if isinstance(got, dict)]
    skipped = [got for _, got in items if isinstance(got, DecodeError)]
    error = next((got for _, got in items if isinstance(got, DissectError)), None)
    inputs: dict[int, Tensor] = {}
    try:
        for number in good[0][1] if good else ():
            inputs[number] = _stack([got[number] for _, got in good])
    except DissectError as wrong_shape:
        error = wrong_shape
    return Batch(torch.tensor([i for i, _ in good], dtype=torch.int64), inputs, skipped, error)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    shapes = {tuple(t.shape) for t in tensors}
    if len(shapes) > 1:
        listed = " and ".join(str(s) for s in sorted(shapes)[:2])
        raise DissectError(
            f"preprocess gave tensors of different shapes, {listed}: it must give "
            f"one size (add a crop)"
        )
    return torch.stack(list(tensors))
