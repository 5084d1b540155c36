"""Batches of decoded and preprocessed images."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

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
# Shared memory that decoding processes need: by default, and at least (Docker gives 64 MB).
SHARED_BYTES = 500_000_000
SHARED_LEAST = 100_000_000


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
    """A decoded batch: probe numbers, inputs by transform, and unreadable images."""

    indices: Tensor
    inputs: dict[int, Tensor]  # empty if no image is readable
    skipped: list[DecodeError]
    # A value: an exception raised in a worker process changes its type and message.
    error: DissectError | None = None

    def pin_memory(self) -> Batch:
        """Pin the inputs; called by the data loader."""
        return replace(self, inputs={n: images.pin_memory() for n, images in self.inputs.items()})


_Item = tuple[int, dict[int, Tensor] | DecodeError | DissectError]
_Key = tuple[int, tuple[int, ...]]


class _Decoded(Dataset[_Item]):
    def __init__(self, probe: Probe, transforms: Sequence[Transform]) -> None:
        self.probe, self.transforms = probe, tuple(transforms)

    def __len__(self) -> int:
        return len(self.probe)

    def __getitem__(self, key: _Key) -> _Item:
        index, numbers = key
        try:
            image = self.probe.read(index)
        except UnreadableImage as error:
            return index, DecodeError(index, error.reason, error.transient)
        except DissectError as error:
            return index, error
        return index, {number: apply(self.transforms[number], image) for number in numbers}


def batches(
    probe: Probe, transforms: Sequence[Transform], requests: Sequence[BatchRequest], workers: int
) -> Generator[Batch, None, None]:
    """Yield the requested batches in order, with a progress bar.

    Raises:
        DissectError: an image can't be read and the probe says `raise`, a transform gives tensors
            of different shapes, or a decoding process died.
    """
    loader = DataLoader(
        _Decoded(probe, transforms),
        # A generator, since the keys of a large probe take memory.
        batch_sampler=([(index, r.transforms) for index in r.images] for r in requests),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )
    total = sum(len(request.images) for request in requests)
    with tqdm(total=total, desc="images", unit="img", disable=None) as bar:
        log_progress = _LogProgress(total, quiet=not bar.disable)
        for batch in _explain_dead_workers(loader):
            if batch.error:
                raise batch.error
            if probe.on_error == "raise" and batch.skipped:
                first = batch.skipped[0]
                raise DissectError(f"can't read {probe.images[first.image]}: {first.reason}")
            yield batch
            done = len(batch.indices) + len(batch.skipped)
            bar.update(done)
            log_progress.update(done)


def workers_for(settings: Settings) -> int:
    """Return the number of decoding processes: as set, or `default_workers`."""
    if settings.workers is None:
        return default_workers(settings.torch_device)
    return settings.workers if settings.workers == 0 or _can_share(SHARED_LEAST) else 0


def default_workers(device: str) -> int:
    """Return the default number of decoding processes, at most 8."""
    if sys.platform != "linux" or not _can_share(SHARED_BYTES):
        return 0  # outside Linux, starting a process would pickle the transforms
    # On the CPU a worker that preempts one of a network's threads makes all of them wait: on two
    # cores, two workers cost a quarter of the speed.
    cores = len(os.sched_getaffinity(0))
    return min(8, cores if torch.device(device).type != "cpu" else cores // 4)


def _can_share(least: int) -> bool:
    """Return whether `least` bytes of shared memory, which workers need, are free."""
    if sys.platform != "linux":
        return True
    try:
        free = shutil.disk_usage(SHARED).free
    except OSError:  # no such folder
        free = 0
    if free < least:
        log.warning(
            "too little shared memory for decoding processes (%s: %d MB): decoding in this process",
            SHARED,
            free // 1_000_000,
        )
    return free >= least


def _explain_dead_workers(loader: Iterable[Batch]) -> Iterator[Batch]:
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


def _collate(items: list[_Item]) -> Batch:
    readable = [(index, item) for index, item in items if isinstance(item, dict)]
    skipped = [item for _, item in items if isinstance(item, DecodeError)]
    error = next((item for _, item in items if isinstance(item, DissectError)), None)
    inputs: dict[int, Tensor] = {}
    for number in readable[0][1] if readable else ():
        tensors = [inputs_of_image[number] for _, inputs_of_image in readable]
        shapes = {tuple(tensor.shape) for tensor in tensors}
        if len(shapes) > 1:
            listed = " and ".join(str(shape) for shape in sorted(shapes)[:2])
            error = DissectError(
                f"preprocess gave tensors of different shapes, {listed}: it must give one size "
                f"(add a crop)"
            )
            break
        inputs[number] = torch.stack(tensors)
    indices = torch.tensor([index for index, _ in readable], dtype=torch.int64)
    return Batch(indices, inputs, skipped, error)
