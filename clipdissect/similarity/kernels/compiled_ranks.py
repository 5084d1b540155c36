"""Rank reorder's inner loop compiled by Numba: ranks from a bitmap instead of a sort per unit.

Each column of P is sorted once for all units and every image gets its place in that order. A
unit's images then set one bit each in a bitmap of places, and the rank of an image among them is
the number of bits below its own: a running count of set bits by word, and one count of a masked
word. That is linear in the unit's images and branch-free, where sorting them for every unit and
concept is neither. Images of equal P share a place; a unit that holds two of them has fewer bits
than images, and only then are its places sorted, with the order of activations deciding.
"""

from __future__ import annotations

import numpy as np

from clipdissect.similarity.kernels.compiled import _compiled
from clipdissect.utils.jit import ones

_RADIX_BITS = 11
_RADIX = 1 << _RADIX_BITS


@_compiled
def _places(column, keys, order, spare, counts, places):  # type: ignore[no-untyped-def]
    """Places of a column's values counted from the largest, equal values sharing one; their number.

    `column` holds float32 bits as uint32. Radix sort, least significant digits first.
    """
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
        counts[0, key & (_RADIX - 1)] += 1
        counts[1, (key >> _RADIX_BITS) & (_RADIX - 1)] += 1
        counts[2, key >> (2 * _RADIX_BITS)] += 1
    for digit in range(3):
        total = 0
        for value in range(_RADIX):
            here = counts[digit, value]
            counts[digit, value] = total
            total += here
        shift = np.uint32(digit * _RADIX_BITS)
        for i in range(images):
            image = order[i]
            value = (keys[image] >> shift) & np.uint32(_RADIX - 1)
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
def _ranks(own, bits, below, words, ranks):  # type: ignore[no-untyped-def]
    """Ranks of a unit's images from their places; false where two share a place."""
    bits[:words] = 0
    for j in range(len(own)):
        bits[own[j] >> 6] |= np.uint64(1) << np.uint64(own[j] & 63)
    total = np.uint64(0)
    for word in range(words):
        below[word] = total
        total += ones(bits[word])
    if total != np.uint64(len(own)):
        return False
    for j in range(len(own)):
        lower = (np.uint64(1) << np.uint64(own[j] & 63)) - np.uint64(1)
        word = own[j] >> 6
        ranks[j] = below[word] + ones(bits[word] & lower)
    return True


@_compiled
def _sorted_ranks(own, ranks):  # type: ignore[no-untyped-def]
    """Ranks of a unit's images by place, equal places in the order they come in."""
    keys = np.empty(len(own), np.int64)
    for j in range(len(own)):
        keys[j] = (np.int64(own[j]) << 32) | j
    keys.sort()
    for rank in range(len(own)):
        ranks[keys[rank] & 0xFFFFFFFF] = rank


@_compiled
def _power_sum(values, ranks, p):  # type: ignore[no-untyped-def]
    """`sum_j |values[rank_j] - values_j|^p`, without a call of pow for the usual powers."""
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
    """`plain.rank_errors` for the concepts from `start` to `stop` of the block.

    `columns` holds float32 bits as uint32.
    """
    images = columns.shape[1]
    units, k = index.shape
    keys = np.empty(images, np.uint32)
    order, spare = np.empty(images, np.int32), np.empty(images, np.int32)
    counts = np.empty((3, _RADIX), np.int32)
    places = np.empty(images, np.int32)
    words = (images + 63) >> 6
    bits, below = np.empty(words, np.uint64), np.empty(words, np.uint32)
    own, ranks = np.empty(k, np.int32), np.empty(k, np.int32)
    for c in range(start, stop):
        distinct = _places(columns[c], keys, order, spare, counts, places)
        for u in range(units):
            for j in range(k):
                own[j] = places[index[u, j]]
            if not _ranks(own, bits, below, (distinct + 63) >> 6, ranks):
                _sorted_ranks(own, ranks)
            out[u, c] = _power_sum(values[u], ranks, p)
