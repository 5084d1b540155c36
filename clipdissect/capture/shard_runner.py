"""A pass over images: decode, run both networks, hand finished shards to the store."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.capture.dataloader import Batch, BatchRequest, DecodeError, batches, workers_for
from clipdissect.capture.networks import EMBEDS, ModelRunner, networks
from clipdissect.capture.output_layout import Reading
from clipdissect.capture.settings import Settings
from clipdissect.capture.writers import Piece, Sink
from clipdissect.encoder import Encoder
from clipdissect.errors import DissectError
from clipdissect.probe import Probe
from clipdissect.store.entries import Rows
from clipdissect.targets import Target
from clipdissect.utils.timing import Timers

TARGET, ENCODER = 0, 1  # numbers of the transforms
WAITING = 2  # shards that may wait to be written before the pass waits for them


@dataclass(frozen=True)
class Job:
    """A shard to compute.

    Args:
        rows: its images, `start, stop`.
        names: layers and perhaps `EMBEDS`: what is missing in it.
    """

    rows: Rows
    names: tuple[str, ...]

    def requests(self, batch_size: int) -> list[BatchRequest]:
        """Its batches. They start with the shard, so that a pass that is resumed makes the same
        ones as a pass that isn't: sums may differ in their last bit between batch sizes."""
        start, stop = self.rows
        layers = any(name != EMBEDS for name in self.names)
        wanted = (TARGET,) * layers + (ENCODER,) * (EMBEDS in self.names)
        return [
            BatchRequest(range(first, min(first + batch_size, stop)), wanted)
            for first in range(start, stop, batch_size)
        ]


# Not inference mode: moving a network to a device in it would spoil its parameters for training.
@torch.no_grad()
def run_jobs(
    target: Target, encoder: Encoder | None, probe: Probe, jobs: Sequence[Job],
    sinks: Mapping[str, Sink], readings: Mapping[str, Reading], settings: Settings,
    stages: Timers | None = None,
) -> None:  # fmt: skip
    """Compute the jobs' arrays and put them into their sinks, shard by shard.

    Args:
        target, encoder: the networks; None where no embeddings are wanted.
        probe: the images; each is decoded once.
        jobs: what to compute, in order.
        sinks: layer or `EMBEDS` to where it goes.
        readings: layer to how its output is read.
        settings: how to run.
        stages: gets the seconds of waiting for images (`decode`) and of all else (`forward`).

    Raises:
        DissectError: see `capture.capture`.
    """
    stages = stages or Timers()
    if not jobs:
        return
    wanted = {n: readings[n] for n in sinks if any(n in job.names for job in jobs) and n != EMBEDS}
    workers = workers_for(settings)
    requests = [job.requests(settings.images_a_batch) for job in jobs]
    transforms = (target.preprocess, *([encoder.preprocess] if encoder else []))
    stream = batches(probe, transforms, [r for job in requests for r in job], workers)
    with (
        networks(target, wanted, encoder, settings) as run,
        closing(stream),
        _Writer() as writer,
    ):
        for job, own in zip(jobs, requests, strict=True):
            shard = _run_job(job, len(own), stream, run, stages)
            with stages.stage("forward"):  # a GPU's work ends where its results are asked for
                for name in job.names:
                    values = _checked(name, shard.values(name), shard, probe)
                    writer.put(sinks[name], shard.piece(values))
        next(stream, None)  # lets it report its last batch


@dataclass
class _Shard:
    """The results of a shard so far, on the device."""

    rows: Rows
    images: list[Tensor] = field(default_factory=list)
    outputs: list[dict[str, Tensor]] = field(default_factory=list)
    skipped: list[DecodeError] = field(default_factory=list)

    def add(self, batch: Batch, outputs: dict[str, Tensor]) -> None:
        self.images.append(batch.indices)
        self.outputs.append(outputs)
        self.skipped += batch.skipped

    def values(self, name: str) -> Float[Tensor, "images n"]:
        parts = [output[name] for output in self.outputs if name in output]
        # A shard without a readable image runs no network, so the width isn't known.
        return torch.cat(parts).float() if parts else torch.zeros(0, 0, dtype=torch.float32)

    def piece(self, values: Float[Tensor, "images n"]) -> Piece:
        skipped = [(s.index, s.reason, s.transient) for s in self.skipped]
        return Piece(self.rows, torch.cat(self.images), values.cpu(), skipped)


def _run_job(
    job: Job, count: int, stream: Iterator[Batch], run: ModelRunner, stages: Timers
) -> _Shard:
    shard = _Shard(job.rows)
    for _ in range(count):
        with stages.stage("decode"):
            batch = next(stream)
        with stages.stage("forward"):
            found = run(job.names, batch.inputs.get(TARGET), batch.inputs.get(ENCODER))
            shard.add(batch, found)
    return shard


class _Writer:
    """Writes shards in a thread of its own, so that the networks don't wait for the disk."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="store")
        self.waiting: deque[Future[None]] = deque()

    def __enter__(self) -> _Writer:
        return self

    def put(self, sink: Sink, piece: Piece) -> None:
        self.waiting.append(self.pool.submit(sink.put, piece))
        while len(self.waiting) > WAITING:
            self.waiting.popleft().result()

    def __exit__(self, *failed: object) -> None:
        # What is under way is finished also after an error elsewhere: the work is done.
        self.pool.shutdown(wait=True)
        if failed[0] is None:
            for write in self.waiting:
                write.result()


def _checked(name: str, values: Tensor, shard: _Shard, probe: Probe) -> Tensor:
    if torch.isfinite(values).all():
        return values
    row, unit = (~torch.isfinite(values)).nonzero()[0].tolist()
    image = probe.images[int(torch.cat(shard.images)[row])]
    raise DissectError(
        f"layer {name}, unit {unit}: the activation on image {image} is "
        f"{values[row, unit].item()}, not a finite number"
    )
