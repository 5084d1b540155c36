"""The inner loops in NumPy and SciPy: the reference of `compiled`."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

_NUMBERS_AT_ONCE = 2_000_000


def average_ranks(rows: Float[np.ndarray, "rows images"]) -> Float[np.ndarray, "rows images"]:
    """Rank each row's values from 0, the largest, float32; equal values share their mean rank."""
    from scipy.stats import rankdata  # imported slowly, and rarely needed

    ascending: Float[np.ndarray, "rows images"] = rankdata(rows, axis=1)
    ranks: Float[np.ndarray, "rows images"] = (rows.shape[1] - ascending).astype(np.float32)
    return ranks


def pair_products(
    first: Float[np.ndarray, "m images"],
    second: Float[np.ndarray, "n images"],
    first_rows: Int[np.ndarray, " pairs"],
    second_rows: Int[np.ndarray, " pairs"],
) -> Float[np.ndarray, " pairs"]:
    """Compute the dot product of a row of `first` and a row of `second` per pair, float32."""
    out = np.empty(len(first_rows), dtype=np.float32)
    step = max(1, _NUMBERS_AT_ONCE // first.shape[1])
    for start in range(0, len(out), step):
        some = slice(start, start + step)
        out[some] = (first[first_rows[some]] * second[second_rows[some]]).sum(1)
    return out


def unit_rows(rows: Float[np.ndarray, "rows images"]) -> Float[np.ndarray, "rows images"]:
    """Return rows minus their mean, of length 1, float32; NaN where a row never varies."""
    # In float64: the squares of small simulated activations underflow in float32.
    centred = rows - rows.mean(1, keepdims=True, dtype=np.float64)
    lengths = np.sqrt((centred**2).sum(1, keepdims=True))
    lengths[rows.max(1) == rows.min(1)] = np.nan  # else rounding errors would be correlated
    unit: Float[np.ndarray, "rows images"] = (centred / lengths).astype(np.float32)
    return unit


def ranked_sums(
    order: Int[np.ndarray, "units images"],
    values: Float[np.ndarray, "units images"],
    active: Int[np.ndarray, " units"],
    rows: Int[np.ndarray, " images_and_one"],
    columns: Int[np.ndarray, " entries"],
    out: Float[np.ndarray, "4 units labels"],
) -> None:
    """Write the fields of `RankedSums` into `out`."""
    images = order.shape[1]
    present = np.zeros((images, out.shape[2]))
    present[np.repeat(np.arange(images), np.diff(rows)), columns] = 1.0
    for unit, numbers in enumerate(order):
        sorted_labels = present[numbers]
        seen = sorted_labels.cumsum(0)
        # Tied images from `first` to `last` (excluded) share a threshold.
        _, groups, sizes = np.unique(-values[unit], return_inverse=True, return_counts=True)
        last = sizes.cumsum()[groups]
        first = last - sizes[groups]
        ranks = images - (first + last + 1) / 2
        out[0, unit] = sorted_labels[: active[unit]].sum(0)
        out[1, unit] = values[unit].astype(np.float64) @ sorted_labels
        out[2, unit] = ranks @ sorted_labels
        out[3, unit] = (seen[last - 1] * sorted_labels / last[:, None]).sum(0)
