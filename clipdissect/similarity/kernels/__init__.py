"""The inner loops: compiled on a CPU where Numba works, plain torch everywhere else."""

from __future__ import annotations

from clipdissect.similarity.kernels.dispatch import (
    backend,
    log_product_sums,
    rank_errors,
    row_sums,
    update_best,
)

__all__ = ["backend", "log_product_sums", "rank_errors", "row_sums", "update_best"]
