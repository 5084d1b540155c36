"""The inner loops compiled by Numba, for float32 arrays in memory of the CPU.

Importing this module imports Numba. Each function works on a part of the concepts or units and
releases the interpreter lock, so plain threads run them side by side; Numba's own threading layer
isn't used, which keeps compilation short and forked processes safe.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic

from clipdissect.utils.jit import compiled

# Sums and products may be regrouped and fused; NaN and infinities keep their meaning.
_FAST = {"reassoc", "contract", "arcp", "nsz"}
# Concepts worked on together: enough to hide the cost of a loop, few enough to stay in cache.
_LANES = 256
# Up to so many images the concepts worked on are copied, so that they lie close together: fewer
# pages of memory to look up, a fifth of the time. More images than that don't fit the cache.
_COPIED_IMAGES = 4096

_compiled = compiled(_FAST)


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
def _exp(x):  # type: ignore[no-untyped-def]
    """`exp(x)` for x from -87 to 0, within a millionth of it; below that exp(-87).

    Unlike a call of the library's, it can be vectorised: `2^n * exp(r)`, |r| <= log(2) / 2, with
    the series of exp up to the sixth power.
    """
    x = max(x, np.float32(-87.0))
    n = np.int32(x * np.float32(1.44269504) - np.float32(0.5))
    r = x - np.float32(n) * np.float32(0.6931471805599453)
    y = np.float32(1 / 720)
    y = y * r + np.float32(1 / 120)
    y = y * r + np.float32(1 / 24)
    y = y * r + np.float32(1 / 6)
    y = y * r + np.float32(1 / 2)
    y = y * r + np.float32(1)
    y = y * r + np.float32(1)
    return _float(_bits(y) + (n << 23))


@_compiled
def log_product_sums(x, index, scale, base, weight, group, out, start, stop):  # type: ignore[no-untyped-def]
    """`plain.log_product_sums` for the concepts from `start` to `stop` of the block.

    After every group the product's exponent moves into an integer, so that there is one logarithm
    for a unit and concept however many factors there are.
    """
    units, k = index.shape
    run = np.empty(_LANES, np.float32)
    exponent = np.empty(_LANES, np.int32)
    images = np.empty(k, np.uint32)
    scaled = np.empty(k, np.float32)
    copied = len(x) <= _COPIED_IMAGES
    panel = np.empty((len(x), _LANES), np.float32) if copied else x
    for c in range(start, stop, _LANES):
        lanes = min(_LANES, stop - c)
        o = 0 if copied else c
        if copied:
            for image in range(len(x)):
                for i in range(lanes):
                    panel[image, i] = x[image, c + i]
        for u in range(units):
            own_base = base[0 if len(base) == 1 else u]
            own_weight = weight[0 if len(weight) == 1 else u]
            for j in range(k):
                images[j] = index[u, j]
                scaled[j] = own_weight[j] * scale[images[j]]
            run[:] = 1.0
            exponent[:] = 0
            for first in range(0, k, group):
                last = min(first + group, k)
                j = first
                while j + 4 <= last:
                    b0, b1, b2, b3 = own_base[j : j + 4]
                    w0, w1, w2, w3 = scaled[j : j + 4]
                    x0 = panel[images[j], o : o + lanes]
                    x1 = panel[images[j + 1], o : o + lanes]
                    x2 = panel[images[j + 2], o : o + lanes]
                    x3 = panel[images[j + 3], o : o + lanes]
                    for i in range(lanes):
                        f = (b0 + w0 * x0[i]) * (b1 + w1 * x1[i])
                        g = (b2 + w2 * x2[i]) * (b3 + w3 * x3[i])
                        run[i] *= f * g
                    j += 4
                while j < last:
                    b0, w0 = own_base[j], scaled[j]
                    x0 = panel[images[j], o : o + lanes]
                    for i in range(lanes):
                        run[i] *= b0 + w0 * x0[i]
                    j += 1
                for i in range(lanes):
                    bits = _bits(run[i])
                    exponent[i] += (bits >> 23) - 127
                    run[i] = _float((bits & 0x7FFFFF) | 0x3F800000)
            for i in range(lanes):
                out[u, c + i] = np.log(run[i]) + np.float32(0.6931471805599453) * exponent[i]


@_compiled
def less_marginal(joint, lam, start, stop):  # type: ignore[no-untyped-def]
    """`plain.less_marginal` for the concepts from `start` to `stop` of the block."""
    units = len(joint)
    most = np.empty(_LANES, np.float32)
    total = np.empty(_LANES, np.float32)
    for c in range(start, stop, _LANES):
        lanes = min(_LANES, stop - c)
        most[:] = -np.inf
        for u in range(units):
            row = joint[u, c : c + lanes]
            for i in range(lanes):
                most[i] = max(most[i], row[i])
        total[:] = 0.0
        for u in range(units):
            row = joint[u, c : c + lanes]
            for i in range(lanes):
                total[i] += _exp(row[i] - most[i])
        for i in range(lanes):
            mean = np.log(total[i] / np.float32(units))
            most[i] = np.float32(lam) * (most[i] + mean)
        for u in range(units):
            row = joint[u, c : c + lanes]
            for i in range(lanes):
                row[i] -= most[i]


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
