"""Helpers for Numba kernels. Importing this module imports Numba."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numba
from numba.extending import intrinsic

log = logging.getLogger(__name__)


def compiled(fastmath: Any = False) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles on first use and caches on disk if possible."""

    def decorate(function: Callable[..., Any]) -> Any:
        # Run-time type checkers wrap every function of a module, and Numba can't compile wrappers.
        function = inspect.unwrap(function)
        try:
            return numba.njit(function, nogil=True, cache=True, fastmath=fastmath)
        except RuntimeError as error:  # no folder for the cache can be written
            log.warning("%s; compiling once for every process instead", error)
            return numba.njit(function, nogil=True, fastmath=fastmath)

    return decorate


def prepare(function: Any, arguments: Sequence[Any]) -> None:
    """Compile a function for arguments of these types without running it."""
    function.compile(tuple(map(numba.typeof, arguments)))


def _ones_in(typing_context: Any, value: Any) -> Any:
    """Count the set bits of a uint64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return numba.uint64(numba.uint64), generate


ones: Any = intrinsic(_ones_in)
