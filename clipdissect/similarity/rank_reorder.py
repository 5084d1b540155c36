"""Rank reorder: how well a concept's order of the top images predicts their activations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.similarity import checks, kernels
from clipdissect.similarity.base import Activations, Plan, Similarity
from clipdissect.similarity.ranking import as_top
from clipdissect.similarity.softmax import union
from clipdissect.similarity.sources import Source, concept_blocks, rows_at_once

VARIANTS = ("released", "eq1")
# A negative mean cosine has no real power; image-text cosines are far above this threshold.
_MIN_MEAN = 1e-3
_ACTIVATIONS_AT_ONCE = 250_000


@dataclass(frozen=True)
class RankReorder(Similarity):
    """Rank reorder over the most activating fraction of images (Sec. 3.2, Eq. (1)).

    A concept's P sorts the unit's top images; the image at rank r gets the r-th largest
    activation, and `d_i` is its difference from the image's own. Equal P are ranked in the
    order of activations. A constant unit has scores 0.

    Args:
        p: the power of differences.
        top_fraction: fraction of the images used, rounded down.
        scale_p: power of the mean of P (at least 1e-3); 0 omits the mean.
        random_baseline: divide by `R_k = mean_ij |q_i - q_j|^p` over the top images, the exact
            expectation of `mean_i |d_i|^p` under a random order.
        variant: `released`: `sim = -mean_i |d_i|^p / (R_k * mean_i(P_im)^scale_p)`; `eq1`: the
            norm `-(sum_i |d_i|^p)^(1/p)`, without `scale_p` and `random_baseline`. See
            DESIGN.md, "Two readings of the paper".
    """

    p: float = 3.0
    top_fraction: float = 0.05
    scale_p: float = 0.5
    random_baseline: bool = True
    variant: str = "released"
    name: ClassVar[str] = "rank_reorder"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("p", self.p, above=0)
        checks.number("top_fraction", self.top_fraction, above=0, most=1)
        checks.number("scale_p", self.scale_p, least=0)
        checks.flag("random_baseline", self.random_baseline)
        checks.choice("variant", self.variant, VARIANTS)

    def images_of(self, probe: int) -> int:
        """Return the number of top images per unit for a probe size; at least 2."""
        # Rounding first: 0.29 * 100 is 28.999999999999996 in floating point.
        count = math.floor(round(self.top_fraction * probe, 6))
        if count < 2:
            raise DissectError(
                f"top_fraction={self.top_fraction!r} of {probe} images gives {count}; "
                "rank_reorder needs at least 2"
            )
        return count

    def _plan(self, source: Source, q: Activations) -> Plan:
        count = self.images_of(source.images)
        top = as_top(q, count, source.images, "top_fraction")
        rows, index = union(top.indices, source.images)
        values, factor = self._rescaled(top.values)
        del top
        selected, units = source.take(rows), len(index)
        means = selected.bag_sums(index) if self.scale_p and self.variant == "released" else None
        # In use: columns of P (on a GPU their order and places too) and a chunk of them, the errors
        # and one copy of them.
        columns = len(rows) * (8 if source.device.type == "cuda" else 1)
        floats = columns + rows_at_once(source.device) + 3 * units
        blocks = concept_blocks(source.concepts, floats, self.memory_gb, source.device)

        def scores(start: int, stop: int) -> Float[Tensor, "units block"]:
            errors = kernels.rank_errors(selected.columns(start, stop), index, values, self.p)
            if self.variant == "eq1":
                errors.pow_(1 / self.p)
            elif means is not None:
                mean = means.block(start, stop).div_(count).clamp_min_(_MIN_MEAN)
                errors.div_(mean.pow_(self.scale_p))
            return errors.mul_(factor)

        return Plan(units, blocks, scores)

    def _rescaled(
        self, values: Float[Tensor, "k units"]
    ) -> tuple[Float[Tensor, "units k"], Float[Tensor, "units 1"]]:
        """Rescale activations to [0, 1], so that no power overflows; return the score factors."""
        k, units = values.shape
        out = torch.empty(units, k, dtype=torch.float32, device=values.device)
        factor = torch.empty(units, 1, dtype=torch.float32, device=values.device)
        step = max(1, _ACTIVATIONS_AT_ONCE // k)
        for first in range(0, units, step):
            group = slice(first, first + step)
            wide = values[:, group].T.double()
            lowest, spread = wide[:, -1:], wide[:, :1] - wide[:, -1:]
            rescaled = (wide - lowest) / torch.where(spread > 0, spread, 1.0)
            out[group], factor[group] = rescaled, self._factor(rescaled, spread)
        return out, factor

    def _factor(
        self, rescaled: Float[Tensor, "units k"], spread: Float[Tensor, "units 1"]
    ) -> Float[Tensor, "units 1"]:
        k = rescaled.shape[1]
        if self.variant == "eq1":
            return -spread.float()
        if not self.random_baseline:
            return -(spread**self.p / k).float()
        # spread^p cancels between the errors and their expectation.
        expected = mean_power(rescaled, self.p)
        return -torch.where(expected > 0, 1 / (expected * k), 0.0).float()


def mean_power(values: Float[Tensor, "units k"], p: float) -> Float[Tensor, "units 1"]:
    """Compute `mean_ij |v_i - v_j|^p` per row, float64; rows descend from 1 to 0, or are 0."""
    k = values.shape[1]
    if p in (1, 2, 3, 4):
        # The binomial theorem makes it linear in k: with v_i >= v_j for i < j,
        # sum_ij = 2 sum_r C(p, r) (-1)^r sum_j v_j^r sum_i<j v_i^(p-r). A row that spans 0 to 1
        # has a sum too large for cancellation to matter.
        total = torch.zeros(len(values), 1, dtype=torch.float64, device=values.device)
        for r in range(int(p) + 1):
            larger = values.pow(int(p) - r).cumsum_(1)[:, :-1]
            pairs = larger.mul_(values[:, 1:].pow(r)).sum(1, keepdim=True)
            total += pairs * (math.comb(int(p), r) * (-1) ** r)
        return total.mul_(2 / k**2).clamp_min_(0.0)
    out = torch.empty(len(values), 1, dtype=torch.float64, device=values.device)
    step = max(1, 2_000_000 // k**2)
    for start in range(0, len(values), step):
        rows = values[start : start + step]
        differences = (rows[:, :, None] - rows[:, None, :]).abs_().pow_(p)
        out[start : start + step] = differences.mean(dim=(1, 2))[:, None]
    return out
