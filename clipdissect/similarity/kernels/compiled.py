"""The inner loops compiled by Numba, for float32 arrays in memory of the CPU.

Importing this module imports Numba. Each function works on a part of the concepts or units and
releases the interpreter lock, so plain threads run them side by side; Numba's own threading layer
isn't used, which keeps compilation short and forked processes safe.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic

_LOG = logging.getLogger(__name__)
# Sums and products may be regrouped and fused; NaN and infinities keep their meaning.
_FAST = {"reassoc", "contract", "arcp", "nsz"}
# Concepts worked on together: enough to hide the cost of a loop, few enough to stay in cache.
_LANES = 128


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile on first use, from the cache on disk where that can be written."""
    # Checkers of types at run time wrap every function of a module, which can't be compiled.
    function = inspect.unwrap(function)
    try:
        return numba.njit(function, nogil=True, cache=True, fastmath=_FAST)
    except RuntimeError as error:  # no folder for the cache can be written
        _LOG.warning("%s; compiling once for every process instead", error)
        return numba.njit(function, nogil=True, fastmath=_FAST)


def _bits_of(typing_context: Any, value: Any) -> Any:
    """The bits of a float32 as an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(numba.int32))

    return numba.int32(numba.float32), generate


def _float_of(typing_context: Any, value: Any) -> Any:
    """The float32 of the bits in an int32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(numba.float32))

    return numba.float32(numba.int32), generate


_bits: Any = intrinsic(_bits_of)
_float: Any = intrinsic(_float_of)


@_compiled
def log_product_sums(s, index, base, weight, group, out, start, stop):  # type: ignore[no-untyped-def]
    """`plain.log_product_sums` for the concepts from `start` to `stop` of the block."""
    units, k = index.shape
    shared = base.shape[0] == 1
    run = np.empty(_LANES, np.float32)
    exponent = np.empty(_LANES, np.int32)
    for c in range(start, stop, _LANES):
        lanes = min(_LANES, stop - c)
        for u in range(units):
            row = 0 if shared else u
            run[:] = 1.0
            exponent[:] = 0
            for first in range(0, k, group):
                last = min(first + group, k)
                j = first
                while j + 4 <= last:
                    b0, b1, b2, b3 = base[row, j : j + 4]
                    w0, w1, w2, w3 = weight[row, j : j + 4]
                    s0 = s[index[u, j], c : c + lanes]
                    s1 = s[index[u, j + 1], c : c + lanes]
                    s2 = s[index[u, j + 2], c : c + lanes]
                    s3 = s[index[u, j + 3], c : c + lanes]
                    for x in range(lanes):
                        f = (b0 + w0 * s0[x]) * (b1 + w1 * s1[x])
                        g = (b2 + w2 * s2[x]) * (b3 + w3 * s3[x])
                        run[x] *= f * g
                    j += 4
                while j < last:
                    b0, w0 = base[row, j], weight[row, j]
                    s0 = s[index[u, j], c : c + lanes]
                    for x in range(lanes):
                        run[x] *= b0 + w0 * s0[x]
                    j += 1
                for x in range(lanes):
                    bits = _bits(run[x])
                    exponent[x] += (bits >> 23) - 127
                    run[x] = _float((bits & 0x7FFFFF) | 0x3F800000)
            for x in range(lanes):
                out[u, c + x] = np.log(run[x]) + np.float32(0.6931471805599453) * exponent[x]


@_compiled
def row_sums(x, index, out, start, stop):  # type: ignore[no-untyped-def]
    """`plain.row_sums` for the concepts from `start` to `stop` of the block."""
    units, k = index.shape
    for c in range(start, stop, _LANES):
        lanes = min(_LANES, stop - c)
        for u in range(units):
            total = out[u, c : c + lanes]
            total[:] = 0.0
            j = 0
            while j + 4 <= k:
                a0 = x[index[u, j], c : c + lanes]
                a1 = x[index[u, j + 1], c : c + lanes]
                a2 = x[index[u, j + 2], c : c + lanes]
                a3 = x[index[u, j + 3], c : c + lanes]
                for i in range(lanes):
                    total[i] += (a0[i] + a1[i]) + (a2[i] + a3[i])
                j += 4
            while j < k:
                a0 = x[index[u, j], c : c + lanes]
                for i in range(lanes):
                    total[i] += a0[i]
                j += 1


@_compiled
def update_best(best, concepts, scores, first, start, stop):  # type: ignore[no-untyped-def]
    """`plain.update_best` for the units from `start` to `stop`; blocks come in concept order."""
    kept = best.shape[1]
    for u in range(start, stop):
        least = best[u, kept - 1]
        for c in range(scores.shape[1]):
            score = scores[u, c]
            if score > least:
                place = kept - 1
                while place > 0 and score > best[u, place - 1]:
                    best[u, place] = best[u, place - 1]
                    concepts[u, place] = concepts[u, place - 1]
                    place -= 1
                best[u, place] = score
                concepts[u, place] = first + c
                least = best[u, kept - 1]
