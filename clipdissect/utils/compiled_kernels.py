"""Run Numba kernels in threads, and Triton kernels; where they fail, callers use plain loops."""

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
_VARIABLE = "CLIPDISSECT_KERNELS"  # set to `torch` to run without Numba and Triton


class _Kernels:
    """The kernels of one module, imported on first use."""

    def __init__(self, module: str, fallback: str) -> None:
        self._name, self._fallback = module, fallback
        self.failed = False

    def module(self) -> ModuleType | None:
        """The module; None if the compiler is disabled or fails, which is logged once."""
        if self.failed or os.environ.get(_VARIABLE) == "torch":
            return None
        try:
            return importlib.import_module(self._name)
        except Exception as error:  # no compiler, or one that refuses this Python or machine
            self.failed = True
            log.warning("no compiled kernels, using plain %s: %s", self._fallback, error)
            return None

    def _fails(self, error: Exception) -> None:
        self.failed = True
        message = "the compiled kernels don't work here, using plain %s: %s"
        log.warning(message, self._fallback, error)


class CompiledKernels(_Kernels):
    """Functions compiled by Numba: each takes arrays, then `start` and `stop`."""

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
            self._fails(error)
            return False
        run_in_threads(function, arrays, length, step)
        return True


class GpuKernels(_Kernels):
    """Functions that launch Triton kernels on tensors of a GPU."""

    def run(self, name: str, arguments: Sequence[Any]) -> bool:
        """Run a function on its tensors' device; return False if it can't."""
        device = next(a.device for a in arguments if isinstance(a, Tensor))
        if device.type != "cuda" or (module := self.module()) is None:
            return False
        try:
            with torch.cuda.device(device):  # Triton launches on the current one
                getattr(module, name)(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no C compiler for Triton's launcher, or an unknown GPU
            self._fails(error)
            return False
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
