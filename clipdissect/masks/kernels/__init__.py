"""The inner loops over masks: compiled where Numba works, plain NumPy everywhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt64

from clipdissect.masks.kernels import plain
from clipdissect.masks.kernels.plain import popcount
from clipdissect.utils.compiled_kernels import CompiledKernels

COMPILED = CompiledKernels("clipdissect.masks.kernels.compiled", "NumPy")

__all__ = [
    "count_formulas",
    "extend_masks",
    "intersections",
    "popcount",
    "upsample_and_split",
    "upsample_and_threshold",
]


def upsample_and_threshold(
    maps: Float[np.ndarray, "n h w"],
    thresholds: Float[np.ndarray, " n"],
    size: tuple[int, int],
) -> UInt64[np.ndarray, "n words"]:
    """Compute `plain.upsample_and_threshold` for masks of a `size`."""
    rows, columns = (interpolation(old, new) for old, new in zip(maps.shape[1:], size, strict=True))
    words = -(-size[0] * size[1] // 64)
    out = np.empty((len(maps), words), dtype=np.uint64)
    arguments = (maps, thresholds, *rows, *columns, out)
    if COMPILED.run("upsample_and_threshold", len(maps), arguments):
        return out
    return plain.upsample_and_threshold(maps, thresholds, rows, columns)


def upsample_and_split(
    maps: Float[np.ndarray, "n h w"],
    lower: Float[np.ndarray, " ranges"],
    upper: Float[np.ndarray, " ranges"],
    size: tuple[int, int],
) -> UInt64[np.ndarray, "ranges n words"]:
    """Compute `plain.upsample_and_split` for masks of a `size`."""
    rows, columns = (interpolation(old, new) for old, new in zip(maps.shape[1:], size, strict=True))
    words = -(-size[0] * size[1] // 64)
    out = np.empty((len(lower), len(maps), words), dtype=np.uint64)
    arguments = (maps, lower, upper, *rows, *columns, out)
    if COMPILED.run("upsample_and_split", len(maps), arguments):
        return out
    return plain.upsample_and_split(maps, lower, upper, rows, columns)


def interpolation(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each new position's two old neighbours, and its fractional distance to the first."""
    # Pixel centres are half a pixel from the edges (torch's `align_corners=False`); beyond the
    # outermost centres the value is constant. Downsampling doesn't smooth.
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    before = np.minimum(at.astype(np.int64), old - 1)
    after = np.minimum(before + 1, old - 1)
    return before, after, (at - before).astype(np.float32)


def intersections(
    starts: Int[np.ndarray, " units_and_one"],
    words: Int[np.ndarray, " n"],
    masks: UInt64[np.ndarray, "beams n"],
    rows: Int[np.ndarray, " words_and_one"],
    concept: Int[np.ndarray, " entries"],
    bits: UInt64[np.ndarray, " entries"],
    concepts: int,
) -> Int[np.ndarray, "units beams concepts"]:
    """Compute `plain.intersections`."""
    out = np.zeros((len(starts) - 1, len(masks), concepts), dtype=np.int64)
    arguments = (starts, words, masks, rows, concept, bits)
    if COMPILED.run("intersections", len(out), (*arguments, out)):
        return out
    return plain.intersections(*arguments, concepts)


def extend_masks(*arguments: Any) -> UInt64[np.ndarray, "beams n"]:
    """Compute `plain.extend_masks`."""
    starts, words, parent = arguments[0], arguments[1], arguments[4]
    out = np.zeros((parent.shape[1], len(words)), dtype=np.uint64)
    if COMPILED.run("extend_masks", len(starts) - 1, (*arguments, out)):
        return out
    return plain.extend_masks(*arguments)


def count_formulas(
    rows: Int[np.ndarray, " words_and_one"],
    concept: Int[np.ndarray, " entries"],
    bits: UInt64[np.ndarray, " entries"],
    concepts: int,
    operands: Int[np.ndarray, "formulas length"],
    operators: Int[np.ndarray, "formulas length"],
) -> tuple[Int[np.ndarray, "formulas concepts"], Int[np.ndarray, " formulas"]]:
    """Compute `plain.count_formulas`."""
    shared = np.zeros((len(operands), concepts), dtype=np.int64)
    sizes = np.zeros(len(operands), dtype=np.int64)
    arguments = (rows, concept, bits, operands, operators, shared, sizes)
    if COMPILED.run("count_formulas", len(operands), arguments):
        return shared, sizes
    return plain.count_formulas(rows, concept, bits, concepts, operands, operators)
