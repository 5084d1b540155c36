"""The inner loops compiled by Numba, for float32 arrays on the CPU; `plain` is the reference."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic

from clipdissect.utils.jit import compiled, ones

# Functions work on the concepts or units from `start` to `stop` and release the interpreter lock,
# so that Python threads run them in parallel. Numba's threading layer would lengthen compilation
# and break forked processes.

# Allow regrouping and fused multiply-add; NaN and infinities keep their meaning.
_FAST = {"reassoc", "contract", "arcp", "nsz"}
# Concepts per inner loop: enough to hide the cost of a loop, few enough to stay in cache.
_LANES = 256
# Up to this many images, the lanes are copied into one panel: fewer TLB misses save a fifth of the
# time. The panel of more images doesn't fit the cache.
_MAX_COPIED_IMAGES = 4096
# Three passes of 11 bits sort 32-bit keys.
_RADIX_BITS = 11
RADIX = 1 << _RADIX_BITS

_compiled = compiled(_FAST)


def _bits_of(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(numba.int32))

    return numba.int32(numba.float32), generate


def _float_of(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(numba.float32))

    return numba.float32(numba.int32), generate


_bits: Any = intrinsic(_bits_of)
_float: Any = intrinsic(_float_of)


@_compiled
def _exp(x):  # type: ignore[no-untyped-def]
    """Compute `exp(x)` for x from -87 to 0, to a relative error of 1e-6; exp(-87) below."""
    # 2^n * exp(r) with |r| <= log(2) / 2 and the Taylor series up to r^6: unlike the library's
    # function, it can be vectorised.
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
    # A float32's exponent starts at bit 23, so this multiplies by 2^n.
    return _float(_bits(y) + (n << 23))


@_compiled
def log_product_sums(x, index, scale, base, weight, group, out, start, stop):  # type: ignore[no-untyped-def]
    """Compute `plain.log_product_sums` for some concepts."""
    units, k = index.shape
    run = np.empty(_LANES, np.float32)
    exponent = np.empty(_LANES, np.int32)
    images = np.empty(k, np.uint32)
    scaled = np.empty(k, np.float32)
    copied = len(x) <= _MAX_COPIED_IMAGES
    panel = np.empty((len(x), _LANES), np.float32) if copied else x
    for c in range(start, stop, _LANES):
        lanes = min(_LANES, stop - c)
        o = 0 if copied else c
        if copied:
            for image in range(len(x)):
                for i in range(lanes):
                    panel[image, i] = x[image, c + i]
        for u in range(units):
            unit_base = base[0 if len(base) == 1 else u]
            unit_weight = weight[0 if len(weight) == 1 else u]
            for j in range(k):
                images[j] = index[u, j]
                scaled[j] = unit_weight[j] * scale[images[j]]
            run[:] = 1.0
            exponent[:] = 0
            for first in range(0, k, group):
                last = min(first + group, k)
                j = first
                while j + 4 <= last:
                    b0, b1, b2, b3 = unit_base[j : j + 4]
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
                    b0, w0 = unit_base[j], scaled[j]
                    x0 = panel[images[j], o : o + lanes]
                    for i in range(lanes):
                        run[i] *= b0 + w0 * x0[i]
                    j += 1
                # Split run = 2^e * m with 1 <= m < 2, and add e to the exponent: one logarithm per
                # unit and concept is then enough for any number of factors.
                for i in range(lanes):
                    bits = _bits(run[i])
                    exponent[i] += (bits >> 23) - 127
                    run[i] = _float((bits & 0x7FFFFF) | 0x3F800000)
            # log(2^e * m) = log(m) + e * log(2)
            for i in range(lanes):
                out[u, c + i] = np.log(run[i]) + np.float32(0.6931471805599453) * exponent[i]


@_compiled
def less_marginal(joint, lam, start, stop):  # type: ignore[no-untyped-def]
    """Apply `plain.less_marginal` to some concepts."""
    units = len(joint)
    most = np.empty(_LANES, np.float32)
    total = np.empty(_LANES, np.float32)
    for c in range(start, stop, _LANES):
        lanes = min(_LANES, stop - c)
        # Two passes: the largest L first, so that no exponential overflows.
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
    """Apply `plain.update_best` to some units by insertion; blocks come in concept order."""
    n = best.shape[1]
    for u in range(start, stop):
        least = best[u, n - 1]
        for c in range(scores.shape[1]):
            score = scores[u, c]
            # Strictly larger: an equal score of a later concept stays behind.
            if score > least:
                place = n - 1
                while place > 0 and score > best[u, place - 1]:
                    best[u, place] = best[u, place - 1]
                    concepts[u, place] = concepts[u, place - 1]
                    place -= 1
                best[u, place] = score
                concepts[u, place] = first + c
                least = best[u, n - 1]


@_compiled
def dense_places(column, keys, order, spare, counts, places):  # type: ignore[no-untyped-def]
    """Rank a column's values from the largest, ties sharing a place; return the last + 1."""
    # Radix sort, least significant digits first; `column` has float32 bits as uint32.
    images = len(column)
    counts[:] = 0
    for i in range(images):
        bits = column[i]
        # Ascending keys for descending values; -0.0 and 0.0 are equal.
        if bits == np.uint32(0x80000000):
            bits = np.uint32(0)
        key = bits if bits & np.uint32(0x80000000) else np.uint32(0x7FFFFFFF) - bits
        keys[i] = key
        order[i] = i
        counts[0, key & (RADIX - 1)] += 1
        counts[1, (key >> _RADIX_BITS) & (RADIX - 1)] += 1
        counts[2, key >> (2 * _RADIX_BITS)] += 1
    for digit in range(3):
        total = 0
        for value in range(RADIX):
            count = counts[digit, value]
            counts[digit, value] = total
            total += count
        shift = np.uint32(digit * _RADIX_BITS)
        for i in range(images):
            image = order[i]
            value = (keys[image] >> shift) & np.uint32(RADIX - 1)
            spare[counts[digit, value]] = image
            counts[digit, value] += 1
        order, spare = spare, order
    place = 0
    places[order[0]] = 0
    for i in range(1, images):
        place += keys[order[i]] != keys[order[i - 1]]
        places[order[i]] = place
    return place + 1


@_compiled
def _bitmap_ranks(unit_places, bits, below, words, ranks):  # type: ignore[no-untyped-def]
    """Rank a unit's images by place, without a sort; return False if two share a place."""
    # An image's rank is the number of set bits below its place's: linear time without branches.
    bits[:words] = 0
    for j in range(len(unit_places)):
        bits[unit_places[j] >> 6] |= np.uint64(1) << np.uint64(unit_places[j] & 63)
    total = np.uint64(0)
    for word in range(words):
        below[word] = total
        total += ones(bits[word])
    if total != np.uint64(len(unit_places)):
        return False
    for j in range(len(unit_places)):
        lower = (np.uint64(1) << np.uint64(unit_places[j] & 63)) - np.uint64(1)
        word = unit_places[j] >> 6
        ranks[j] = below[word] + ones(bits[word] & lower)
    return True


@_compiled
def _sorted_ranks(unit_places, ranks):  # type: ignore[no-untyped-def]
    """Rank a unit's images by place, equal places in the order of activations."""
    keys = np.empty(len(unit_places), np.int64)
    for j in range(len(unit_places)):
        keys[j] = (np.int64(unit_places[j]) << 32) | j
    keys.sort()
    for rank in range(len(unit_places)):
        ranks[keys[rank] & 0xFFFFFFFF] = rank


@_compiled
def _power_sum(values, ranks, p):  # type: ignore[no-untyped-def]
    """Compute `sum_j |values[rank_j] - values_j|^p`, without pow for the usual powers."""
    total = np.float32(0)
    if p == 1.0:
        for j in range(len(values)):
            total += abs(values[ranks[j]] - values[j])
    elif p == 2.0:
        for j in range(len(values)):
            d = values[ranks[j]] - values[j]
            total += d * d
    elif p == 3.0:
        for j in range(len(values)):
            d = abs(values[ranks[j]] - values[j])
            total += d * d * d
    else:
        for j in range(len(values)):
            total += abs(values[ranks[j]] - values[j]) ** np.float32(p)
    return total


@_compiled
def rank_errors(columns, index, values, p, out, start, stop):  # type: ignore[no-untyped-def]
    """Compute `plain.rank_errors` for some concepts; `columns` has float32 bits as uint32."""
    # A column is sorted once for all units, which then rank their images by place.
    images = columns.shape[1]
    units, k = index.shape
    keys = np.empty(images, np.uint32)
    order, spare = np.empty(images, np.int32), np.empty(images, np.int32)
    counts = np.empty((3, RADIX), np.int32)
    places = np.empty(images, np.int32)
    words = (images + 63) >> 6
    bits, below = np.empty(words, np.uint64), np.empty(words, np.uint32)
    unit_places, ranks = np.empty(k, np.int32), np.empty(k, np.int32)
    for c in range(start, stop):
        distinct = dense_places(columns[c], keys, order, spare, counts, places)
        for u in range(units):
            for j in range(k):
                unit_places[j] = places[index[u, j]]
            if not _bitmap_ranks(unit_places, bits, below, (distinct + 63) >> 6, ranks):
                _sorted_ranks(unit_places, ranks)
            out[u, c] = _power_sum(values[u], ranks, p)
