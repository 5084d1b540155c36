"""Which implementation of the inner loops runs, and the threads of the compiled one."""

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
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.similarity.kernels import plain

_LOG = logging.getLogger(__name__)
_PACKAGE = "clipdissect.similarity.kernels"
_COMPILER = "clipdissect.utils.jit"
# Set to `torch` to do without Numba.
_VARIABLE = "CLIPDISSECT_KERNELS"
# Threads take whole cache lines of concepts, so that they don't write to the same one.
_STEP = 32
_INSERTED = 64
# Scores that are looked through faster than another thread starts.
_SCANNED = 1_000_000

_failed = False


def backend() -> str:
    """The implementation that runs on a CPU: `numba` or `torch`."""
    return "torch" if _module("compiled") is None else "numba"


def log_product_sums(
    x: Float[Tensor, "images block"],
    index: Int[Tensor, "units k"],
    scale: Float[Tensor, " images"],
    base: Float[Tensor, "units_or_1 k"],
    weight: Float[Tensor, "one_or_units k"],
    group: int,
) -> Float[Tensor, "units block"]:
    """As `plain.log_product_sums`."""
    out = torch.empty(len(index), x.shape[1], dtype=torch.float32, device=x.device)
    arguments = (x, index, scale, base, weight, group)
    if _ran("compiled", "log_product_sums", x.shape[1], _STEP, *arguments, out):
        return out
    return plain.log_product_sums(*arguments)


def less_marginal(
    joint: Float[Tensor, "units block"], lam: float, layers: Sequence[int] = ()
) -> Float[Tensor, "units block"]:
    """As `plain.less_marginal`, for the units of each layer; returns its argument.

    Args:
        joint: `L`, for the units of one or several layers.
        lam: weight of the marginal.
        layers: units of each layer; empty for one.
    """
    for own in torch.split(joint, list(layers) or len(joint)) if lam else ():
        if not _ran("compiled", "less_marginal", own.shape[1], _STEP, own, float(lam)):
            plain.less_marginal(own, lam)
    return joint


def rank_errors(
    columns: Float[Tensor, "block images"],
    index: Int[Tensor, "units k"],
    values: Float[Tensor, "units k"],
    p: float,
) -> Float[Tensor, "units block"]:
    """As `plain.rank_errors`."""
    out = torch.empty(len(index), len(columns), dtype=torch.float32, device=columns.device)
    bits = columns.view(torch.uint32)
    if _ran("compiled_ranks", "rank_errors", len(columns), 1, bits, index, values, float(p), out):
        return out
    return plain.rank_errors(columns, index, values, p)


def update_best(
    best: Float[Tensor, "units n"],
    concepts: Int[Tensor, "units n"],
    scores: Float[Tensor, "units block"],
    start: int,
) -> None:
    """As `plain.update_best`."""
    # Insertion is the fastest for a short list only.
    few = best.shape[1] <= _INSERTED
    step = max(1, _SCANNED // scores.shape[1])
    arguments = (best, concepts, scores, start)
    if not (few and _ran("compiled", "update_best", len(scores), step, *arguments)):
        plain.update_best(best, concepts, scores, start)


def _ran(module: str, name: str, length: int, step: int, *arguments: Any) -> bool:
    """Run a compiled function over `length` concepts or units, split among threads.

    Returns:
        False where it can't run: not on a CPU, no Numba, or it failed to compile.

    Raises:
        Exception: whatever the function itself raises; the plain loops would hide it.
    """
    global _failed
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    if any(t.device.type != "cpu" for t in tensors) or (found := _module(module)) is None:
        return False
    arrays = [a.numpy() if isinstance(a, Tensor) else a for a in arguments]
    function = getattr(found, name)
    try:
        importlib.import_module(_COMPILER).prepare(function, [*arrays, 0, length])
    except Exception as error:  # whatever a compiler can raise, the plain loops still work
        _failed = True
        _LOG.warning("the compiled kernels don't work here, using plain torch: %s", error)
        return False
    _split(function, arrays, length, step)
    return True


def _split(function: Callable[..., None], arrays: list[Any], length: int, step: int) -> None:
    """Call a function on parts of the range, in as many threads as torch uses."""
    threads = torch.get_num_threads()
    # Two parts a thread: torch's own threads spin for a while after their work, so one of ours may
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


def _module(name: str) -> ModuleType | None:
    """A module of compiled functions, or None where Numba isn't to be had; says so once."""
    global _failed
    if _failed or os.environ.get(_VARIABLE) == "torch":
        return None
    try:
        return importlib.import_module(f"{_PACKAGE}.{name}")
    except Exception as error:  # Numba missing, or refusing this Python, NumPy or machine
        _failed = True
        _LOG.warning("no compiled kernels, using plain torch: %s", error)
        return None
