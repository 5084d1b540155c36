"""Several processes on one job, as started by `torchrun`."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch

from clipdissect.errors import DissectError

log = logging.getLogger(__name__)

T = TypeVar("T")
# Waiting for another process's pass over a large probe is no fault; a process that dies is detected
# at once, because its connections close.
TIMEOUT = timedelta(days=7)


@dataclass(frozen=True)
class Team:
    """The processes of a job: `size` of them; this is number `rank`, and 0 leads."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process plans, scores and writes results."""
        return self.rank == 0

    def broadcast(self, value: T) -> T:
        """Return the leader's value; raise a DissectError if another process has stopped."""
        if self.size == 1:
            return value
        from torch import distributed

        values: list[Any] = [value if self.leads else None]
        with self._explain_failure():
            distributed.broadcast_object_list(values, src=0)
        shared: T = values[0]
        return shared

    def all_equal(self, value: str) -> bool:
        return len(set(self._gather(value))) == 1

    def barrier(self) -> None:
        self._gather("")

    def partition(self, jobs: Sequence[T]) -> Sequence[T]:
        """Return this process's share: consecutive jobs, in sizes that differ by at most 1."""
        first, stop = (len(jobs) * n // self.size for n in (self.rank, self.rank + 1))
        return jobs[first:stop]

    def _gather(self, value: str) -> list[str]:
        if self.size == 1:
            return [value]
        from torch import distributed

        gathered: list[Any] = [None] * self.size
        with self._explain_failure():
            distributed.all_gather_object(gathered, value)
        return gathered

    @contextmanager
    def _explain_failure(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise DissectError(
                f"process {self.rank} of {self.size} stopped because another one failed (its "
                f"message is above or in its own log): {reason}. Finished shards are stored; run "
                f"again to resume"
            ) from error


ALONE = Team()


def from_environment() -> Team:
    """Return the team that `torchrun` set up, or this process alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        return ALONE
    from torch import distributed

    if not distributed.is_initialized():
        # gloo is for messages (arrays go through the store's folder), nccl for the networks.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        try:
            distributed.init_process_group(backend, timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise DissectError(f"the processes can't find each other: {reason}") from error
        # Its threads must have ended before the interpreter does, or the process aborts.
        atexit.register(distributed.destroy_process_group)
    return Team(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def all_cores(team: Team) -> Iterator[None]:
    """Give the leader, while the others wait, the threads of a single process."""
    # `torchrun` gives each process one thread, and sums are split by threads: last digits differ.
    before = torch.get_num_threads()
    if team.size > 1 and team.leads and before == 1:
        torch.set_num_threads(_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def mention_threads(team: Team, device: str) -> None:
    """Log if a single process would use more threads, so that last digits may differ."""
    threads, cores = torch.get_num_threads(), _cores()
    if team.size > 1 and team.leads and torch.device(device).type == "cpu" and threads < cores:
        log.info(
            "%d processes with %d thread(s) each: last digits may differ from those of one process "
            "with %d; they don't where OMP_NUM_THREADS is the same for both",
            team.size,
            threads,
            cores,
        )


def _cores() -> int:
    """Return the usable physical cores: torch's default number of threads."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    usable = os.sched_getaffinity(0)
    siblings = [
        Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")
        for number in usable
    ]
    return len({path.read_text() if path.is_file() else str(path) for path in siblings})


def own_device(device: str) -> str:
    """Return the GPU of this process for `auto`, if there are several GPUs and processes."""
    if device == "auto" and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    return device
