"""The inner loops: compiled on a CPU where Numba works, plain torch everywhere else."""

from __future__ import annotations

from clipdissect.similarity.kernels.dispatch import (
    backend,
    less_marginal,
    log_product_sums,
    rank_errors,
    update_best,
)

__all__ = ["backend", "less_marginal", "log_product_sums", "rank_errors", "update_best"]
