"""The inner loops over masks compiled by Numba; `plain` is their reference."""

from __future__ import annotations

import numpy as np

from clipdissect.utils.jit import compiled, ones

# Functions work on the items from `start` to `stop` and release the interpreter lock, so that
# Python threads run them in parallel.

# Without fast maths: interpolated values must equal NumPy's to the last bit.
_compiled = compiled()


@_compiled
def upsample_and_threshold(  # type: ignore[no-untyped-def]
    maps, thresholds, above, below, down, left, right, across, out, start, stop
):
    """Compute `plain.upsample_and_threshold` for some maps."""
    height, width = len(above), len(left)
    first, second = np.empty(width, np.float32), np.empty(width, np.float32)
    for n in range(start, stop):
        threshold = thresholds[n]
        out[n, :] = 0
        for y in range(height):
            upper, lower, fraction = maps[n, above[y]], maps[n, below[y]], down[y]
            largest = upper[0]
            for x in range(len(upper)):
                largest = max(largest, upper[x], lower[x])
            if not largest > threshold:  # nor is anything interpolated between them
                continue
            for x in range(width):
                first[x] = upper[left[x]] + across[x] * (upper[right[x]] - upper[left[x]])
                second[x] = lower[left[x]] + across[x] * (lower[right[x]] - lower[left[x]])
            for x in range(width):
                if first[x] + fraction * (second[x] - first[x]) > threshold:
                    pixel = y * width + x
                    out[n, pixel >> 6] |= np.uint64(1) << np.uint64(pixel & 63)


@_compiled
def _upsample(map_, above, below, down, left, right, across, wide, values):  # type: ignore[no-untyped-def]
    """Interpolate one map, row by row, into the flat `values`."""
    width = len(left)
    for y in range(len(map_)):
        row = map_[y]
        for x in range(width):
            wide[y, x] = row[left[x]] + across[x] * (row[right[x]] - row[left[x]])
    for y in range(len(above)):
        upper, lower, fraction = wide[above[y]], wide[below[y]], down[y]
        for x in range(width):
            values[y * width + x] = upper[x] + fraction * (lower[x] - upper[x])


@_compiled
def upsample_and_split(  # type: ignore[no-untyped-def]
    maps, lower, upper, above, below, down, left, right, across, out, start, stop
):
    """Compute `plain.upsample_and_split` for some maps."""
    wide = np.empty((maps.shape[1], len(left)), np.float32)
    # Pixels after the last one are in no range.
    values = np.full(64 * out.shape[2], np.inf, np.float32)
    for n in range(start, stop):
        _upsample(maps[n], above, below, down, left, right, across, wide, values)
        for word in range(out.shape[2]):
            part = values[64 * word : 64 * word + 64]
            least, largest = part[0], part[0]
            for x in range(64):
                least, largest = min(least, part[x]), max(largest, part[x])
            for place in range(len(lower)):
                low, high = lower[place], upper[place]
                bits = np.uint64(0)
                if least <= high and largest >= low:
                    for x in range(64):
                        inside = np.uint64(low <= part[x]) & np.uint64(part[x] <= high)
                        bits |= inside << np.uint64(x)
                out[place, n, word] = bits


@_compiled
def intersections(starts, words, masks, rows, concept, bits, out, start, stop):  # type: ignore[no-untyped-def]
    """Compute `plain.intersections` for some units."""
    beams = len(masks)
    for unit in range(start, stop):
        for place in range(starts[unit], starts[unit + 1]):
            word = words[place]
            for entry in range(rows[word], rows[word + 1]):
                shown, number = bits[entry], concept[entry]
                for beam in range(beams):
                    out[unit, beam, number] += np.int64(ones(masks[beam, place] & shown))


@_compiled
def _join(operator, mask, operand):  # type: ignore[no-untyped-def]
    """Compute `plain.join` for two words."""
    if operator == 0:
        return mask & operand
    if operator == 1:
        return mask | operand
    return mask & ~operand


@_compiled
def extend_masks(  # type: ignore[no-untyped-def]
    starts,
    words,
    masks,
    unit_bits,
    parent,
    operator,
    operand,
    rows,
    concept,
    bits,
    out,
    start,
    stop,
):
    """Compute `plain.extend_masks` for some units."""
    beams = parent.shape[1]
    for unit in range(start, stop):
        for place in range(starts[unit], starts[unit + 1]):
            word = words[place]
            for beam in range(beams):
                if parent[unit, beam] < 0:
                    continue
                operand_bits = np.uint64(0)
                for entry in range(rows[word], rows[word + 1]):
                    if concept[entry] == operand[unit, beam]:
                        operand_bits = bits[entry]
                parent_bits = masks[parent[unit, beam], place]
                joined = _join(operator[unit, beam], parent_bits, operand_bits)
                out[beam, place] = joined & unit_bits[place]


@_compiled
def count_formulas(rows, concept, bits, operands, operators, shared, sizes, start, stop):  # type: ignore[no-untyped-def]
    """Compute `plain.count_formulas` for some formulas, word by word."""
    length = operands.shape[1]
    by_concept = np.zeros(shared.shape[1], np.uint64)
    for word in range(len(rows) - 1):
        first, last = rows[word], rows[word + 1]
        if first == last:
            continue
        for entry in range(first, last):
            by_concept[concept[entry]] = bits[entry]
        for formula in range(start, stop):
            mask = by_concept[operands[formula, 0]]
            for n in range(1, length):
                mask = _join(operators[formula, n], mask, by_concept[operands[formula, n]])
            if mask:
                sizes[formula] += np.int64(ones(mask))
                for entry in range(first, last):
                    shared[formula, concept[entry]] += np.int64(ones(mask & bits[entry]))
        for entry in range(first, last):
            by_concept[concept[entry]] = np.uint64(0)
