"""The inner loops over masks: compiled where Numba works, plain NumPy everywhere else."""

from __future__ import annotations

from clipdissect.masks.kernels.dispatch import (
    count_formulas,
    count_together,
    popcount,
    restrict,
    stretch,
)

__all__ = ["count_formulas", "count_together", "popcount", "restrict", "stretch"]
