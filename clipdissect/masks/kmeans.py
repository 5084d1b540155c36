"""K-means of numbers, deterministic, for millions of them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

CELLS = 512  # into which numbers are merged for the start; as many distinct numbers are exact
_ROUNDS = 300  # as scikit-learn's


def clusters(ordered: Float[np.ndarray, " n"], count: int) -> Int[np.ndarray, " clusters_and_one"]:
    """Return where each cluster of ascending numbers starts, and `n` last.

    The clusters with the smallest sum of squares by dynamic programming: exactly, for up to `CELLS`
    distinct numbers. More are merged into `CELLS` cells first, and the result is a start of Lloyd's
    algorithm on the numbers themselves. There are fewer clusters where fewer numbers are distinct.
    """
    values = ordered.astype(np.float64)
    if not len(values):
        return np.zeros(1, dtype=np.int64)
    values -= values.mean()  # sums of squares far from zero lose digits
    cells = _cells(values)
    starts = cells[_best_partition(values, cells, min(count, len(cells) - 1))]
    return starts if len(cells) <= CELLS else _lloyd(values, starts)


def _cells(values: Float[np.ndarray, " n"]) -> Int[np.ndarray, " cells_and_one"]:
    """Return where each cell starts, and `n` last: distinct numbers, or at most `CELLS` of them."""
    distinct = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
    if len(distinct) > CELLS:
        # Equal widths resolve the tails, which squares weigh most, and equal counts the bulk.
        edges = np.linspace(values[0], values[-1], CELLS // 2 + 1)[1:-1]
        places = np.searchsorted(values, edges)
        counts = np.linspace(0, len(distinct), CELLS // 2, endpoint=False).astype(np.int64)
        distinct = np.union1d(places, distinct[counts])  # neither splits equal numbers
    return np.append(distinct, len(values))


def _best_partition(
    values: Float[np.ndarray, " n"], cells: Int[np.ndarray, " cells_and_one"], count: int
) -> Int[np.ndarray, " clusters_and_one"]:
    """Return the first cell of each cluster of the best partition, and the cells' number last."""
    cost = _costs(values, cells)
    best, splits = cost[0], []
    for _ in range(count - 1):
        # Row i: the last cluster starts with cell i, and the others are the best of cells before.
        totals = np.concatenate([[np.inf], best[:-1]])[:, None] + cost
        splits.append(totals.argmin(0))
        best = totals.min(0)
    starts = [len(cells) - 1]
    for split in reversed(splits):
        starts.append(int(split[starts[-1] - 1]))
    return np.array([0, *reversed(starts)])


def _costs(
    values: Float[np.ndarray, " n"], cells: Int[np.ndarray, " cells_and_one"]
) -> Float[np.ndarray, "cells cells"]:
    """Return the sum of squares around the mean of cells i to j; infinite where i > j."""
    sums = np.zeros((3, len(cells)))
    for row, power in zip(sums, (np.ones_like(values), values, values**2), strict=True):
        np.cumsum(np.add.reduceat(power, cells[:-1]), out=row[1:])
    number, total, squares = sums[:, None, 1:] - sums[:, :-1, None]
    cost = squares - total**2 / np.where(number > 0, number, 1)
    return np.where(number > 0, np.maximum(cost, 0), np.inf)


def _lloyd(
    values: Float[np.ndarray, " n"], starts: Int[np.ndarray, " clusters_and_one"]
) -> Int[np.ndarray, " clusters_and_one"]:
    """Assign numbers to the nearest mean until nothing changes; equally near: the smaller mean."""
    total = np.concatenate([[0], np.cumsum(values)])
    for _ in range(_ROUNDS):
        means = np.diff(total[starts]) / np.diff(starts)
        middles = (means[1:] + means[:-1]) / 2
        moved = np.concatenate([[0], np.searchsorted(values, middles, side="right"), [len(values)]])
        if (moved == starts).all() or (np.diff(moved) == 0).any():
            break
        starts = moved
    return starts
