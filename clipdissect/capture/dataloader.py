"""Batches of decoded and preprocessed images, on the device that runs the networks."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable, Iterator, Sequence

from clipdissect.capture.decoding import Batch, BatchRequest, Transforms, decode_in_slots
from clipdissect.capture.device_copies import DeviceCopies
from clipdissect.capture.gpu_decoding import check_decodes_on, decode_on_device
from clipdissect.capture.settings import Settings
from clipdissect.capture.workers import SHARED, workers_for
from clipdissect.errors import DissectError
from clipdissect.images.transforms import SplitTransform
from clipdissect.probe import Probe
from clipdissect.utils.progress import progress
from clipdissect.utils.timing import Timers

log = logging.getLogger(__name__)

LOG_EVERY_S = 20.0


def batches(
    probe: Probe,
    transforms: Sequence[SplitTransform],
    requests: Sequence[BatchRequest],
    settings: Settings,
    timers: Timers | None = None,
) -> Generator[Batch, None, None]:
    """Yield the requested batches in order, with a progress bar.

    Work that the caller queues on a batch must be queued before it asks for the next one.

    Args:
        timers: get the seconds of waiting for images (`decode`) and for the device (`forward`).

    Raises:
        DissectError: an image can't be read and the probe says `raise`, a transform gives tensors
            of different shapes, a decoding process died, or `decode=gpu` without a GPU.
    """
    parts = Transforms(transforms)
    copies, timers = DeviceCopies(settings.torch_device), timers or Timers()
    if probe.on_gpu:
        check_decodes_on(settings.torch_device)
        stream = decode_on_device(probe, parts, requests, copies, timers)
    else:
        workers = workers_for(settings)
        stream = decode_in_slots(probe, parts, requests, workers, copies, timers)
    total = sum(len(request.images) for request in requests)
    with progress(total, "images", "img", leave=True) as bar:
        log_progress = _LogProgress(total, quiet=not bar.disable)
        for batch in _explain_dead_workers(stream):
            if probe.on_error == "raise" and batch.skipped:
                first = batch.skipped[0]
                raise DissectError(f"can't read {probe.images[first.image]}: {first.reason}")
            yield batch
            done = len(batch.indices) + len(batch.skipped)
            bar.update(done)
            log_progress.update(done)


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
