"""Histograms of each unit's activations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.capture.activations import Activations, TopKActivations

BINS = 24
_BLOCK = 256  # units at a time: bin indices (int64) take twice the memory of the activations


@dataclass(frozen=True)
class Histograms:
    """Counts per unit in equal bins from `low` to `high`, of all images or the top-k only."""

    low: Float[Tensor, " units"]
    high: Float[Tensor, " units"]
    counts: Int[Tensor, "units bins"]
    images: int
    whole: bool


def histograms(activations: Activations, bins: int = BINS) -> Histograms:
    """Compute each unit's histogram, on the CPU; a constant unit falls into the last bin."""
    is_top_k = isinstance(activations, TopKActivations)
    values = activations.top.values if isinstance(activations, TopKActivations) else activations
    values = values.float()
    low, high = values.amin(0), values.amax(0)
    counts = torch.zeros(values.shape[1], bins, dtype=torch.int64, device=values.device)
    for start in range(0, values.shape[1], _BLOCK):
        units = slice(start, start + _BLOCK)
        span = high[units] - low[units]
        position = torch.where(span > 0, (values[:, units] - low[units]) / span, 1.0)
        indices = (position * bins).long().clamp(0, bins - 1)
        counts[units].scatter_add_(1, indices.T, torch.ones_like(indices.T))
    return Histograms(low.cpu(), high.cpu(), counts.cpu(), len(values), not is_top_k)
