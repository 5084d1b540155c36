"""Seconds spent per stage of a job."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A process that is paused from outside puts a clock here that stands still meanwhile.
clock: Callable[[], float] = time.perf_counter


class Timers:
    """Adds up wall-clock seconds under names, in the order first met."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block's duration under `name`, also when it fails."""
        start = clock()
        try:
            yield
        finally:
            # Not rounded: a stage may be entered thousands of times for less than a millisecond.
            self.seconds[name] = self.seconds.get(name, 0.0) + clock() - start
