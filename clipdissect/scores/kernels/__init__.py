"""The inner loops of scores: compiled where Numba works, plain NumPy and SciPy elsewhere."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

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


class Entries(NamedTuple):
    """A binary matrix by rows: row i has ones in `columns[starts[i]:starts[i + 1]]`."""

    starts: Int[Tensor, " rows_and_one"]  # int64
    columns: Int[Tensor, " entries"]  # int32
    width: int

    @classmethod
    def of(cls, matrix: Bool[Tensor, "rows columns"]) -> Entries:
        starts = torch.zeros(len(matrix) + 1, dtype=torch.int64)
        starts[1:] = matrix.sum(1).cumsum(0)
        return cls(starts, matrix.nonzero()[:, 1].int(), matrix.shape[1])


class RankedSums(NamedTuple):
    """Sums over the images with a label, for each pair of a unit and a label, float64."""

    active: Float[Tensor, "units labels"]  # images among the unit's active ones
    values: Float[Tensor, "units labels"]
    ranks: Float[Tensor, "units labels"]  # from 0 for the smallest value; ties share the mean
    precision: Float[Tensor, "units labels"]  # share with the label, down to the image's value


def ranked_sums(
    order: Int[Tensor, "units images"],
    values: Float[Tensor, "units images"],
    active: Int[Tensor, " units"],
    entries: Entries,
) -> RankedSums:
    """Sum over each label's images, in the order of each unit's values.

    Args:
        order: images by value, largest first, int32.
        values: in that order, float32.
        active: number of leading images that are active; ends between different values.
        entries: labels per image.
    """
    out = torch.zeros(4, len(order), entries.width, dtype=torch.float64)
    arguments = (order, values, active, entries.starts, entries.columns, out)
    if not COMPILED.run("ranked_sums", len(order), arguments):
        plain.ranked_sums(*(array.numpy() for array in arguments))
    return RankedSums(*out)
