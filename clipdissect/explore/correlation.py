"""Correlations of the activations of two layers."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_UNITS_AT_ONCE = 2048


def correlation(
    first: Float[Tensor, "images units"], second: Float[Tensor, "images others"]
) -> Float[np.ndarray, "units others"]:
    """Return the Pearson correlation of each pair of units; 0 where one doesn't vary."""
    a, b = _standardised(first), _standardised(second)
    blocks = [part.T @ b for part in torch.split(a, _UNITS_AT_ONCE, dim=1)]
    correlations: Float[np.ndarray, "units others"] = torch.cat(blocks).clamp(-1, 1).numpy()
    return correlations


def _standardised(q: Float[Tensor, "images units"]) -> Float[Tensor, "images units"]:
    """Return columns of mean 0 and length 1, or of zeros."""
    centred = q.double() - q.double().mean(0)
    constant = q.amax(0) == q.amin(0)
    lengths = centred.norm(dim=0).masked_fill(constant, torch.inf)
    standardised: Tensor = centred / lengths
    return standardised.float()
