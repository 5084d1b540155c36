"""The inner loops over masks compiled by Numba; `plain` says what they compute.

Importing this module imports Numba. Each function works on a part of the units or formulas and
releases the interpreter lock, so plain threads run them side by side.
"""

from __future__ import annotations

import numpy as np

from clipdissect.utils.jit import compiled, ones

# Without fast maths: interpolated values must be the same to the last bit as NumPy's.
_compiled = compiled()


@_compiled
def stretch(maps, levels, above, below, down, left, right, across, out, start, stop):  # type: ignore[no-untyped-def]
    """`plain.stretch` for the maps from `start` to `stop`."""
    height, width = len(above), len(left)
    one, two = np.empty(width, np.float32), np.empty(width, np.float32)
    for n in range(start, stop):
        level = levels[n]
        out[n, :] = 0
        for y in range(height):
            upper, lower, share = maps[n, above[y]], maps[n, below[y]], down[y]
            most = upper[0]
            for x in range(len(upper)):
                most = max(most, upper[x], lower[x])
            if not most > level:  # nor is anything between them
                continue
            for x in range(width):
                one[x] = upper[left[x]] + across[x] * (upper[right[x]] - upper[left[x]])
                two[x] = lower[left[x]] + across[x] * (lower[right[x]] - lower[left[x]])
            for x in range(width):
                if one[x] + share * (two[x] - one[x]) > level:
                    pixel = y * width + x
                    out[n, pixel >> 6] |= np.uint64(1) << np.uint64(pixel & 63)


@_compiled
def count_together(starts, words, masks, rows, concept, bits, out, start, stop):  # type: ignore[no-untyped-def]
    """`plain.count_together` for the units from `start` to `stop`."""
    beams = len(masks)
    for unit in range(start, stop):
        for place in range(starts[unit], starts[unit + 1]):
            word = words[place]
            for entry in range(rows[word], rows[word + 1]):
                own, which = bits[entry], concept[entry]
                for beam in range(beams):
                    out[unit, beam, which] += np.int64(ones(masks[beam, place] & own))


@_compiled
def _joined(operator, one, other):  # type: ignore[no-untyped-def]
    """`plain.apply` of two words."""
    if operator == 0:
        return one & other
    if operator == 1:
        return one | other
    return one & ~other


@_compiled
def restrict(starts, words, masks, own, parent, operator, operand, rows, concept, bits, out, start, stop):  # type: ignore[no-untyped-def]  # noqa: E501 # fmt: skip
    """`plain.restrict` for the units from `start` to `stop`."""
    beams = parent.shape[1]
    for unit in range(start, stop):
        for place in range(starts[unit], starts[unit + 1]):
            word = words[place]
            for beam in range(beams):
                if parent[unit, beam] < 0:
                    continue
                here = np.uint64(0)
                for entry in range(rows[word], rows[word + 1]):
                    if concept[entry] == operand[unit, beam]:
                        here = bits[entry]
                before = masks[parent[unit, beam], place]
                out[beam, place] = _joined(operator[unit, beam], before, here) & own[place]


@_compiled
def count_formulas(rows, concept, bits, operands, operators, shared, sizes, start, stop):  # type: ignore[no-untyped-def]
    """`plain.count_formulas` for the formulas from `start` to `stop`, word by word."""
    length = operands.shape[1]
    here = np.zeros(shared.shape[1], np.uint64)
    for word in range(len(rows) - 1):
        first, last = rows[word], rows[word + 1]
        if first == last:
            continue
        for entry in range(first, last):
            here[concept[entry]] = bits[entry]
        for formula in range(start, stop):
            mask = here[operands[formula, 0]]
            for n in range(1, length):
                mask = _joined(operators[formula, n], mask, here[operands[formula, n]])
            if mask:
                sizes[formula] += np.int64(ones(mask))
                for entry in range(first, last):
                    shared[formula, concept[entry]] += np.int64(ones(mask & bits[entry]))
        for entry in range(first, last):
            here[concept[entry]] = np.uint64(0)
