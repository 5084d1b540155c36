"""Sums over ranked images in NumPy."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


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
