"""The inner loops over masks in NumPy: the reference of the compiled ones.

A *row* is the list of a word's entries in `ConceptMasks`. Operators are `AND`, `OR`, `AND_NOT`.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt64

AND, OR, AND_NOT = 0, 1, 2

_OCTETS = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)


def popcount(words: UInt64[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    """How many bits of each word are set."""
    if hasattr(np, "bitwise_count"):  # from NumPy 2 on
        found: Int[np.ndarray, "..."] = np.bitwise_count(words).astype(np.int64)
        return found
    octets = np.ascontiguousarray(words)[..., None].view(np.uint8)
    counts: Int[np.ndarray, "..."] = _OCTETS[octets].sum(-1, dtype=np.int64)
    return counts


def stretch(
    maps: Float[np.ndarray, "n h w"],
    levels: Float[np.ndarray, " n"],
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    columns: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> UInt64[np.ndarray, "n words"]:
    """Which pixels of the maps, interpolated bilinearly, are above their level; packed.

    Args:
        maps: float32.
        levels: float32.
        rows: for each row of pixels, the row of the map before it, the one after it and how far
            it is from the first to the second, from `interpolation`.
        columns: likewise.
    """
    from clipdissect.masks.layout import packed

    left, right, across = columns
    above, below, down = rows
    wide = maps[:, :, left] + across * (maps[:, :, right] - maps[:, :, left])
    values = wide[:, above] + down[:, None] * (wide[:, below] - wide[:, above])
    above_level = values > levels[:, None, None]
    return packed(above_level.reshape(len(maps), len(down) * len(across)))


def count_together(
    starts: Int[np.ndarray, " units_and_one"],
    words: Int[np.ndarray, " n"],
    masks: UInt64[np.ndarray, "beams n"],
    rows: Int[np.ndarray, " words_and_one"],
    concept: Int[np.ndarray, " entries"],
    bits: UInt64[np.ndarray, " entries"],
    concepts: int,
) -> Int[np.ndarray, "units beams concepts"]:
    """How many pixels each unit's masks share with each concept.

    Args:
        starts: each unit's first word in `words`.
        words: numbers of the words in which the units have bits, unit by unit.
        masks: bits in these words, of several masks a unit.
        rows, concept, bits: of the concepts.
        concepts: how many there are.
    """
    beams = len(masks)
    out = np.zeros((len(starts) - 1, beams, concepts), dtype=np.int64)
    for unit, (start, stop) in enumerate(itertools.pairwise(starts)):
        place, entry = _expanded(words[start:stop], rows)
        for beam in range(beams):
            common = popcount(masks[beam, start + place] & bits[entry])
            out[unit, beam] = np.bincount(concept[entry], common, minlength=concepts)
    return out


def restrict(
    starts: Int[np.ndarray, " units_and_one"],
    words: Int[np.ndarray, " n"],
    masks: UInt64[np.ndarray, "parents n"],
    own: UInt64[np.ndarray, " n"],
    parent: Int[np.ndarray, "units beams"],
    operator: Int[np.ndarray, "units beams"],
    operand: Int[np.ndarray, "units beams"],
    rows: Int[np.ndarray, " words_and_one"],
    concept: Int[np.ndarray, " entries"],
    bits: UInt64[np.ndarray, " entries"],
) -> UInt64[np.ndarray, "beams n"]:
    """Masks one concept longer, within where the unit fires.

    Args:
        masks: the units' shorter masks.
        own: where the units fire.
        parent: the mask to start from; -1 for one that stays empty.
        operator, operand: what to do with which concept.
        others: as of `count_together`.
    """
    beams = parent.shape[1]
    out = np.zeros((beams, len(words)), dtype=np.uint64)
    for unit, (start, stop) in enumerate(itertools.pairwise(starts)):
        place, entry = _expanded(words[start:stop], rows)
        for beam in range(beams):
            if parent[unit, beam] < 0:
                continue
            here = np.zeros(stop - start, dtype=np.uint64)
            is_it = concept[entry] == operand[unit, beam]
            here[place[is_it]] = bits[entry[is_it]]
            before = masks[parent[unit, beam], start:stop]
            out[beam, start:stop] = apply(operator[unit, beam], before, here) & own[start:stop]
    return out


def count_formulas(
    rows: Int[np.ndarray, " words_and_one"],
    concept: Int[np.ndarray, " entries"],
    bits: UInt64[np.ndarray, " entries"],
    concepts: int,
    operands: Int[np.ndarray, "formulas length"],
    operators: Int[np.ndarray, "formulas length"],
) -> tuple[Int[np.ndarray, "formulas concepts"], Int[np.ndarray, " formulas"]]:
    """How many pixels formulas share with each concept, and how many they have.

    Args:
        rows, concept, bits, concepts: of the concepts.
        operands: concepts, of formulas of one length.
        operators: how each is joined to what stands before it; the first is not looked at.
    """
    words = len(rows) - 1
    word = np.repeat(np.arange(words), np.diff(rows))
    shared = np.zeros((len(operands), concepts), dtype=np.int64)
    sizes = np.zeros(len(operands), dtype=np.int64)
    for number, (own, how) in enumerate(zip(operands, operators, strict=True)):
        mask = _dense(own[0], words, word, concept, bits)
        for operator, operand in zip(how[1:], own[1:], strict=True):
            mask = apply(operator, mask, _dense(operand, words, word, concept, bits))
        sizes[number] = popcount(mask).sum()
        common = popcount(mask[word] & bits)
        shared[number] = np.bincount(concept, common, minlength=concepts)
    return shared, sizes


def apply(
    operator: Any, one: UInt64[np.ndarray, " n"], other: UInt64[np.ndarray, " n"]
) -> UInt64[np.ndarray, " n"]:
    """Two masks joined."""
    joined: UInt64[np.ndarray, " n"] = (
        one | other if operator == OR else one & (other if operator == AND else ~other)
    )
    return joined


def _dense(
    number: Any, words: int, word: np.ndarray, concept: np.ndarray, bits: np.ndarray
) -> UInt64[np.ndarray, " words"]:
    mask = np.zeros(words, dtype=np.uint64)
    chosen = concept == number
    mask[word[chosen]] = bits[chosen]
    return mask


def _expanded(
    words: Int[np.ndarray, " n"], rows: Int[np.ndarray, " words_and_one"]
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """The entries of some words, and of each the place of its word among them."""
    first, counts = rows[words], rows[words + 1] - rows[words]
    place = np.repeat(np.arange(len(words)), counts)
    before = np.cumsum(counts) - counts
    entry = np.arange(len(place)) - before[place] + first[place]
    return place, entry
