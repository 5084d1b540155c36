"""Histograms of every unit's activations, taken while these are at hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.capture.activations import Activations, TopKActivations

BINS = 24
_BLOCK = 256  # units at a time: a block's bin numbers take as much memory as its activations


@dataclass(frozen=True)
class Histograms:
    """How often each unit's activation falls into equal parts of its range.

    Args:
        low, high: each unit's smallest and largest activation, `[units]`.
        counts: images a bin, `[units, bins]`; the last bin holds the largest activation.
        images: how many images were counted: all, or the top ones that were kept.
        whole: whether that is all of them.
    """

    low: Float[Tensor, " units"]
    high: Float[Tensor, " units"]
    counts: Int[Tensor, "units bins"]
    images: int
    whole: bool


def histograms(activations: Activations, bins: int = BINS) -> Histograms:
    """Each unit's histogram over its own range; of a unit that never varies all in the last bin.

    Args:
        activations: `q [images, units]`, or its running top images.
        bins: how many.
    """
    kept = isinstance(activations, TopKActivations)
    values = activations.top.values if isinstance(activations, TopKActivations) else activations
    values = values.float().cpu()
    low, high = values.amin(0), values.amax(0)
    counts = torch.zeros(values.shape[1], bins, dtype=torch.int64)
    for start in range(0, values.shape[1], _BLOCK):
        units = slice(start, start + _BLOCK)
        part, least = values[:, units], low[units]
        span = high[units] - least
        place = torch.where(span > 0, (part - least) / span, torch.ones(()))
        numbers = (place * bins).long().clamp(0, bins - 1)
        counts[units].scatter_add_(1, numbers.T, torch.ones_like(numbers.T))
    return Histograms(low, high, counts, len(values), not kept)
