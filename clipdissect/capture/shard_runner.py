"""A pass over images: decode, run both networks, hand complete shards to the writers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.capture.dataloader import batches
from clipdissect.capture.decoding import Batch, BatchRequest, DecodeError, batch_requests
from clipdissect.capture.device_copies import cuda
from clipdissect.capture.networks import EMBEDS, ModelRunner, Outputs
from clipdissect.capture.writers import ShardWriter
from clipdissect.errors import DissectError
from clipdissect.probe import Probe
from clipdissect.store.entries import Rows
from clipdissect.utils.timing import Timers

TARGET, ENCODER = 0, 1  # numbers of the transforms
MAX_QUEUED = 2  # shards waiting to be written before the pass waits too


@dataclass
class ShardTask:
    """A shard to compute: its images `start, stop`, and its missing arrays."""

    rows: Rows
    names: tuple[str, ...]
    # Per batch: probe numbers of the readable images, and the outputs on the device.
    images: list[Tensor] = field(default_factory=list)
    outputs: list[Outputs] = field(default_factory=list)
    skipped: list[DecodeError] = field(default_factory=list)

    def requests(self, batch_size: int) -> list[BatchRequest]:
        """Return its batches, which start with the shard."""
        # Sums may differ in their last bit between batch sizes: a resumed pass must make the same
        # batches as an uninterrupted one.
        needs_target = any(name != EMBEDS for name in self.names)
        transforms = (TARGET,) * needs_target + (ENCODER,) * (EMBEDS in self.names)
        return batch_requests(range(*self.rows), batch_size, transforms)

    def run(self, stream: Iterator[Batch], run: ModelRunner, timers: Timers) -> None:
        for _ in self.requests(run.settings.images_a_batch):
            batch = next(stream)
            with timers.stage("forward"):
                inputs = batch.inputs
                self.outputs.append(run(self.names, inputs.get(TARGET), inputs.get(ENCODER)))
                self.images.append(batch.indices)
                self.skipped += batch.skipped

    def pop(self, name: str, probe: Probe) -> Float[Tensor, "images ..."]:
        """Move an array out of the results; values must be finite."""
        # Another stream than that of the networks reads them. They are held until they are copied,
        # which the check for finite values waits for.
        batches = [output.pop(name) for output in self.outputs if name in output]
        if not batches:  # no readable image: no network ran, and the width isn't known
            return torch.zeros(0, 0, dtype=torch.float32)
        values = torch.cat(batches).float()
        if not torch.isfinite(values).all():
            first = (~torch.isfinite(values)).nonzero()[0].tolist()
            image = probe.images[int(torch.cat(self.images)[first[0]])]
            raise DissectError(
                f"layer {name}, unit {first[-1]}: the activation on image {image} is "
                f"{values[tuple(first)].item()}, not a finite number"
            )
        return values


# Not inference mode: moving a network to a device in it would spoil its parameters for training.
@torch.no_grad()
def run_shards(
    run: ModelRunner,
    probe: Probe,
    tasks: Sequence[ShardTask],
    writers: Mapping[str, ShardWriter],
    timers: Timers,
) -> None:
    """Compute the tasks' arrays and write them per shard; each image is decoded once."""
    requests = [request for task in tasks for request in task.requests(run.settings.images_a_batch)]
    stream = batches(probe, run.transforms, requests, run.settings, timers)
    with closing(stream), _WriterThread(run.settings.torch_device, probe, writers) as thread:
        for task in tasks:
            task.run(stream, run, timers)
            with timers.stage("forward"):
                thread.write(task)
        next(stream, None)  # lets it report its last batch
        with timers.stage("forward"):  # a GPU's work ends where its results are asked for
            thread.finish()


class _WriterThread:
    """A thread that takes shards from the device and writes them.

    The networks wait neither for the disk, nor the main thread for the device.
    """

    def __init__(self, device: str, probe: Probe, writers: Mapping[str, ShardWriter]) -> None:
        self.device, self.probe, self.writers = torch.device(device), probe, writers
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="store")
        self.queue: deque[Future[None]] = deque()
        self.stream = cuda.Stream(self.device) if self.device.type == "cuda" else None

    def __enter__(self) -> _WriterThread:
        return self

    def write(self, task: ShardTask) -> None:
        """Write a shard whose work was queued; raise the errors of earlier ones."""
        queued = cuda.current_stream(self.device).record_event() if self.stream else None
        self.queue.append(self.pool.submit(self._write, task, queued))
        while len(self.queue) > MAX_QUEUED:
            self.queue.popleft().result()

    def _write(self, task: ShardTask, queued: Any) -> None:
        # A stream of its own waits for this shard alone, and not for the batches after it.
        with cuda.stream(self.stream) if self.stream else nullcontext():
            if self.stream:
                self.stream.wait_event(queued)
            for name in task.names:
                values = task.pop(name, self.probe)
                images = torch.cat(task.images)
                self.writers[name].write(task.rows, images, values, task.skipped)

    def finish(self) -> None:
        """Wait until everything is written; raise the first error."""
        while self.queue:
            self.queue.popleft().result()

    def __exit__(self, *error: object) -> None:
        # After an error elsewhere, too, queued shards are written: they are complete.
        self.pool.shutdown(wait=True)
