"""Timers of a job's stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A process that is paused from outside puts a clock here that stops during pauses.
clock: Callable[[], float] = time.perf_counter


class Timers:
    """Wall-clock seconds per stage, in the order of first use."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's duration to a stage, even if it fails."""
        start = clock()
        try:
            yield
        finally:
            # Not rounded: a stage may be entered thousands of times for less than a millisecond.
            self.seconds[name] = self.seconds.get(name, 0.0) + clock() - start
