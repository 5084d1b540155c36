"""Which implementation of the loops over masks runs, and the threads of the compiled one."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt64

from clipdissect.masks.kernels import plain
from clipdissect.masks.kernels.plain import popcount
from clipdissect.utils.compiled_kernels import CompiledKernels

COMPILED = CompiledKernels("clipdissect.masks.kernels.compiled", "NumPy")

__all__ = ["count_formulas", "count_together", "popcount", "restrict", "stretch"]


def stretch(
    maps: Float[np.ndarray, "n h w"],
    levels: Float[np.ndarray, " n"],
    size: tuple[int, int],
) -> UInt64[np.ndarray, "n words"]:
    """Which pixels are above their level in maps interpolated to `size`; see `plain.stretch`."""
    rows, columns = (interpolation(old, new) for old, new in zip(maps.shape[1:], size, strict=True))
    words = -(-size[0] * size[1] // 64)
    out = np.empty((len(maps), words), dtype=np.uint64)
    if COMPILED.run("stretch", len(maps), (maps, levels, *rows, *columns, out)):
        return out
    return plain.stretch(maps, levels, rows, columns)


def interpolation(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each new position the old ones before and after it, and how far it is between them.

    Positions are centres of equal parts of the same length (half-pixel centres, torch's
    `align_corners=False`), beyond the outermost centres the value stays as it is there. Making a
    map smaller takes values in the same way, without smoothing.
    """
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    before = np.minimum(at.astype(np.int64), old - 1)
    after = np.minimum(before + 1, old - 1)
    return before, after, (at - before).astype(np.float32)


def count_together(
    starts: Int[np.ndarray, " units_and_one"],
    words: Int[np.ndarray, " n"],
    masks: UInt64[np.ndarray, "beams n"],
    rows: Int[np.ndarray, " words_and_one"],
    concept: Int[np.ndarray, " entries"],
    bits: UInt64[np.ndarray, " entries"],
    concepts: int,
) -> Int[np.ndarray, "units beams concepts"]:
    """As `plain.count_together`."""
    out = np.zeros((len(starts) - 1, len(masks), concepts), dtype=np.int64)
    if COMPILED.run("count_together", len(out), (starts, words, masks, rows, concept, bits, out)):
        return out
    return plain.count_together(starts, words, masks, rows, concept, bits, concepts)


def restrict(*arguments: Any) -> UInt64[np.ndarray, "beams n"]:
    """As `plain.restrict`."""
    starts, words, parent = arguments[0], arguments[1], arguments[4]
    out = np.zeros((parent.shape[1], len(words)), dtype=np.uint64)
    if COMPILED.run("restrict", len(starts) - 1, (*arguments, out)):
        return out
    return plain.restrict(*arguments)


def count_formulas(
    rows: Int[np.ndarray, " words_and_one"],
    concept: Int[np.ndarray, " entries"],
    bits: UInt64[np.ndarray, " entries"],
    concepts: int,
    operands: Int[np.ndarray, "formulas length"],
    operators: Int[np.ndarray, "formulas length"],
) -> tuple[Int[np.ndarray, "formulas concepts"], Int[np.ndarray, " formulas"]]:
    """As `plain.count_formulas`."""
    shared = np.zeros((len(operands), concepts), dtype=np.int64)
    sizes = np.zeros(len(operands), dtype=np.int64)
    arguments = (rows, concept, bits, operands, operators)
    if COMPILED.run("count_formulas", len(operands), (*arguments, shared, sizes)):
        return shared, sizes
    return plain.count_formulas(rows, concept, bits, concepts, operands, operators)
