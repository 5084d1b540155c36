"""The inner loops over masks in NumPy; `rows, concept, bits` are `ConceptMasks.entries`."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt64

AND, OR, AND_NOT = 0, 1, 2

_OCTETS = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)


def popcount(words: UInt64[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    """Count the set bits of each word."""
    if hasattr(np, "bitwise_count"):  # from NumPy 2 on
        counts: Int[np.ndarray, "..."] = np.bitwise_count(words).astype(np.int64)
        return counts
    octets = np.ascontiguousarray(words)[..., None].view(np.uint8)
    sums: Int[np.ndarray, "..."] = _OCTETS[octets].sum(-1, dtype=np.int64)
    return sums


Neighbours = tuple[np.ndarray, np.ndarray, np.ndarray]


def upsample_and_threshold(
    maps: Float[np.ndarray, "n h w"],
    thresholds: Float[np.ndarray, " n"],
    rows: Neighbours,
    columns: Neighbours,
) -> UInt64[np.ndarray, "n words"]:
    """Return which pixels of bilinearly interpolated maps exceed the threshold, packed."""
    from clipdissect.masks.layout import packed

    values = _upsampled(maps, rows, columns)
    return packed(values > thresholds[:, None])


def upsample_and_split(
    maps: Float[np.ndarray, "n h w"],
    lower: Float[np.ndarray, " ranges"],
    upper: Float[np.ndarray, " ranges"],
    rows: Neighbours,
    columns: Neighbours,
) -> UInt64[np.ndarray, "ranges n words"]:
    """Return which pixels of bilinearly interpolated maps are in each range, ends included."""
    from clipdissect.masks.layout import packed

    values = _upsampled(maps, rows, columns)
    bounds = zip(lower, upper, strict=True)
    return np.stack([packed((values >= low) & (values <= high)) for low, high in bounds])


def _upsampled(
    maps: Float[np.ndarray, "n h w"], rows: Neighbours, columns: Neighbours
) -> Float[np.ndarray, "n pixels"]:
    left, right, across = columns
    above, below, down = rows
    wide = maps[:, :, left] + across * (maps[:, :, right] - maps[:, :, left])
    values = wide[:, above] + down[:, None] * (wide[:, below] - wide[:, above])
    flat: Float[np.ndarray, "n pixels"] = values.reshape(len(maps), len(down) * len(across))
    return flat


def intersections(
    starts: Int[np.ndarray, " units_and_one"],
    words: Int[np.ndarray, " n"],
    masks: UInt64[np.ndarray, "beams n"],
    rows: Int[np.ndarray, " words_and_one"],
    concept: Int[np.ndarray, " entries"],
    bits: UInt64[np.ndarray, " entries"],
    concepts: int,
) -> Int[np.ndarray, "units beams concepts"]:
    """Count the pixels that each unit's masks, bits in its `words`, share with each concept."""
    beams = len(masks)
    out = np.zeros((len(starts) - 1, beams, concepts), dtype=np.int64)
    for unit, (start, stop) in enumerate(itertools.pairwise(starts)):
        place, entry = _expanded(words[start:stop], rows)
        for beam in range(beams):
            common = popcount(masks[beam, start + place] & bits[entry])
            out[unit, beam] = np.bincount(concept[entry], common, minlength=concepts)
    return out


def extend_masks(
    starts: Int[np.ndarray, " units_and_one"],
    words: Int[np.ndarray, " n"],
    masks: UInt64[np.ndarray, "parents n"],
    unit_bits: UInt64[np.ndarray, " n"],
    parent: Int[np.ndarray, "units beams"],
    operator: Int[np.ndarray, "units beams"],
    operand: Int[np.ndarray, "units beams"],
    rows: Int[np.ndarray, " words_and_one"],
    concept: Int[np.ndarray, " entries"],
    bits: UInt64[np.ndarray, " entries"],
) -> UInt64[np.ndarray, "beams n"]:
    """Join masks with one more concept, where the unit is active; `parent` -1 stays empty."""
    beams = parent.shape[1]
    out = np.zeros((beams, len(words)), dtype=np.uint64)
    for unit, (start, stop) in enumerate(itertools.pairwise(starts)):
        place, entry = _expanded(words[start:stop], rows)
        for beam in range(beams):
            if parent[unit, beam] < 0:
                continue
            operand_mask = np.zeros(stop - start, dtype=np.uint64)
            chosen = concept[entry] == operand[unit, beam]
            operand_mask[place[chosen]] = bits[entry[chosen]]
            mask = join(operator[unit, beam], masks[parent[unit, beam], start:stop], operand_mask)
            out[beam, start:stop] = mask & unit_bits[start:stop]
    return out


def count_formulas(
    rows: Int[np.ndarray, " words_and_one"],
    concept: Int[np.ndarray, " entries"],
    bits: UInt64[np.ndarray, " entries"],
    concepts: int,
    operands: Int[np.ndarray, "formulas length"],
    operators: Int[np.ndarray, "formulas length"],
) -> tuple[Int[np.ndarray, "formulas concepts"], Int[np.ndarray, " formulas"]]:
    """Count the pixels that formulas of one length share with each concept, and their own."""
    words = len(rows) - 1
    word = np.repeat(np.arange(words), np.diff(rows))
    shared = np.zeros((len(operands), concepts), dtype=np.int64)
    sizes = np.zeros(len(operands), dtype=np.int64)

    def dense(number: Any) -> UInt64[np.ndarray, " words"]:
        mask = np.zeros(words, dtype=np.uint64)
        mask[word[concept == number]] = bits[concept == number]
        return mask

    for number, formula in enumerate(operands):
        mask = dense(formula[0])
        for operator, operand in zip(operators[number][1:], formula[1:], strict=True):
            mask = join(operator, mask, dense(operand))
        sizes[number] = popcount(mask).sum()
        common = popcount(mask[word] & bits)
        shared[number] = np.bincount(concept, common, minlength=concepts)
    return shared, sizes


def join(
    operator: Any, mask: UInt64[np.ndarray, " n"], operand: UInt64[np.ndarray, " n"]
) -> UInt64[np.ndarray, " n"]:
    """Join two masks."""
    joined: UInt64[np.ndarray, " n"] = (
        mask | operand if operator == OR else mask & (operand if operator == AND else ~operand)
    )
    return joined


def _expanded(
    words: Int[np.ndarray, " n"], rows: Int[np.ndarray, " words_and_one"]
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Return the entries of some words, preceded by each entry's position in `words`."""
    first, counts = rows[words], rows[words + 1] - rows[words]
    place = np.repeat(np.arange(len(words)), counts)
    before = np.cumsum(counts) - counts
    entry = np.arange(len(place)) - before[place] + first[place]
    return place, entry
