"""The inner loops of scores: compiled where Numba works, plain NumPy and SciPy elsewhere."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from clipdissect.scores.kernels import plain
from clipdissect.utils.compiled_kernels import CompiledKernels

COMPILED = CompiledKernels("clipdissect.scores.kernels.compiled", "NumPy")


def average_ranks(rows: Float[np.ndarray, "rows images"]) -> Float[np.ndarray, "rows images"]:
    """Compute `plain.average_ranks`."""
    out = np.empty(rows.shape, dtype=np.float32)
    bits = np.ascontiguousarray(rows, dtype=np.float32).view(np.uint32)
    if COMPILED.run("average_ranks", len(rows), (bits, out)):
        return out
    return plain.average_ranks(rows)


def pair_products(
    first: Float[np.ndarray, "m images"],
    second: Float[np.ndarray, "n images"],
    first_rows: Int[np.ndarray, " pairs"],
    second_rows: Int[np.ndarray, " pairs"],
) -> Float[np.ndarray, " pairs"]:
    """Compute `plain.pair_products`."""
    out = np.empty(len(first_rows), dtype=np.float32)
    arguments = (first, second, first_rows, second_rows)
    if COMPILED.run("pair_products", len(out), (*arguments, out)):
        return out
    return plain.pair_products(*arguments)


def unit_rows(rows: Float[np.ndarray, "rows images"]) -> Float[np.ndarray, "rows images"]:
    """Compute `plain.unit_rows`."""
    out = np.empty(rows.shape, dtype=np.float32)
    if COMPILED.run("unit_rows", len(rows), (np.ascontiguousarray(rows), out)):
        return out
    return plain.unit_rows(rows)
