"""What the packages of Numba kernels share. Importing this module imports Numba."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numba
from numba.extending import intrinsic

log = logging.getLogger(__name__)


def compiled(fastmath: Any = False) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: compile on first use, from the cache on disk where that can be written.

    Args:
        fastmath: what the compiler may do to sums and products, as of `numba.njit`.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        # Checkers of types at run time wrap every function of a module, which can't be compiled.
        function = inspect.unwrap(function)
        try:
            return numba.njit(function, nogil=True, cache=True, fastmath=fastmath)
        except RuntimeError as error:  # no folder for the cache can be written
            log.warning("%s; compiling once for every process instead", error)
            return numba.njit(function, nogil=True, fastmath=fastmath)

    return decorate


def prepare(function: Any, arguments: Sequence[Any]) -> None:
    """Compile a function for arguments of these types, without running it, unless that was done.

    So that whatever fails here is the compiler's, and what fails in the function is the data's.
    """
    function.compile(tuple(map(numba.typeof, arguments)))


def _ones_in(typing_context: Any, value: Any) -> Any:
    """How many bits of a uint64 are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return numba.uint64(numba.uint64), generate


ones: Any = intrinsic(_ones_in)
