"""Run Numba kernels in threads; where Numba fails, callers use plain loops."""

from __future__ import annotations

import importlib
import logging
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

_COMPILER = "clipdissect.utils.jit"  # imports Numba, so it is imported on first use
_VARIABLE = "CLIPDISSECT_KERNELS"  # set to `torch` to run without Numba


class CompiledKernels:
    """The compiled functions of one module: each takes arrays, then `start` and `stop`."""

    def __init__(self, module: str, fallback: str) -> None:
        self._name, self._fallback = module, fallback
        self.failed = False

    def module(self) -> ModuleType | None:
        """The module; None if Numba is disabled or fails, which is logged once."""
        if self.failed or os.environ.get(_VARIABLE) == "torch":
            return None
        try:
            return importlib.import_module(self._name)
        except Exception as error:  # Numba missing, or refusing this Python, NumPy or machine
            self.failed = True
            log.warning("no compiled kernels, using plain %s: %s", self._fallback, error)
            return None

    def run(self, name: str, length: int, arguments: Sequence[Any], step: int = 1) -> bool:
        """Run a function on `length` items, in parts of `step`; return False if it can't."""
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        if not length or any(t.device.type != "cpu" for t in tensors):
            return False
        if (module := self.module()) is None:
            return False
        arrays = [a.numpy() if isinstance(a, Tensor) else a for a in arguments]
        function = getattr(module, name)
        try:
            # Compiled first, so that errors of the call itself, due to the data, are raised.
            importlib.import_module(_COMPILER).prepare(function, [*arrays, 0, length])
        except Exception as error:  # whatever a compiler can raise, the plain loops still work
            self.failed = True
            message = "the compiled kernels don't work here, using plain %s: %s"
            log.warning(message, self._fallback, error)
            return False
        run_in_threads(function, arrays, length, step)
        return True


def run_in_threads(
    function: Callable[..., None], arrays: list[Any], length: int, step: int
) -> None:
    """Call a function on parts of the range, in as many threads as torch uses."""
    threads = torch.get_num_threads()
    # Two parts per thread: torch's threads spin for a while after their work, so one of ours may
    # start late, and the others then take over its second part.
    size = math.ceil(length / (2 * threads * step)) * step
    parts = iter([(start, min(start + size, length)) for start in range(0, length, size)])

    def work() -> None:
        for part in parts:
            function(*arrays, *part)

    # Threads are started for each call: a lasting pool would be dead in a forked process.
    helpers = min(threads, math.ceil(length / size)) - 1
    with ThreadPoolExecutor(max(1, helpers)) as pool:
        futures = [pool.submit(work) for _ in range(helpers)]
        work()
        for future in futures:
            future.result()
