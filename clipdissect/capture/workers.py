"""The number of processes that decode images, and the memory that they share."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable

import torch

from clipdissect.capture.settings import Settings

log = logging.getLogger(__name__)

SHARED = "/dev/shm"
# Shared memory that decoding processes need: by default, and at least (Docker gives 64 MB).
SHARED_BYTES = 500_000_000
SHARED_LEAST = 100_000_000


def workers_for(settings: Settings) -> int:
    """Return the number of decoding processes: as set, or `default_workers`."""
    if settings.workers is None:
        return default_workers(settings.torch_device)
    return settings.workers if settings.workers == 0 or _can_share(SHARED_LEAST) else 0


def default_workers(device: str) -> int:
    """Return the default number of decoding processes: a GPU gets all cores."""
    if sys.platform != "linux" or not _can_share(SHARED_BYTES):
        return 0  # outside Linux, starting a process would pickle the transforms
    # On the CPU a worker that preempts one of a network's threads makes all of them wait: on two
    # cores, two workers cost a quarter of the speed.
    cores = len(os.sched_getaffinity(0))
    if torch.device(device).type == "cpu":
        return min(8, cores // 4)
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))  # set by torchrun


def workers_that_fit(workers: int, needed: Callable[[int], int]) -> int:
    """Return the most decoding processes, up to `workers`, whose `needed` bytes can be shared."""
    free, fit = _free_shared(), workers
    while fit and needed(fit) > free:
        fit //= 2
    if fit < workers:
        log.warning(
            "too little shared memory for %d decoding processes (%s: %d MB): using %s",
            workers,
            SHARED,
            free // 1_000_000,
            fit or "this process",
        )
    return fit


def _can_share(least: int) -> bool:
    return workers_that_fit(1, lambda _: least) == 1


def _free_shared() -> int:
    """Return the bytes of shared memory that are free."""
    if sys.platform != "linux":
        return sys.maxsize
    try:
        return shutil.disk_usage(SHARED).free
    except OSError:  # no such folder
        return 0
