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
from clipdissect.similarity.blocks import concept_blocks
from clipdissect.similarity.ranking import as_top
from clipdissect.similarity.softmax import union
from clipdissect.similarity.sources import ROWS_AT_ONCE, Source

VARIANTS = ("released", "eq1")
# A mean cosine below this can't be raised to a power sensibly; image-text cosines are far above.
_LEAST_MEAN = 1e-3
_ACTIVATIONS_AT_ONCE = 250_000


@dataclass(frozen=True)
class RankReorder(Similarity):
    """Rank reorder over the most activating fraction of images.

    Sort the unit's top images by a concept's P and hand out their activations in that order: the
    image at place r gets the r-th largest. `d_i` is the difference of that from the image's own
    activation.

    `variant="released"`: `sim = -mean_i |d_i|^p / (R_k * mean_i(P_im)^scale_p)`; `R_k`, if
    `random_baseline`, is the exact expectation of `mean_i |d_i|^p` under a random order,
    `mean_ij |q_i - q_j|^p` over the top images. `variant="eq1"`: the plain norm
    `sim = -(sum_i |d_i|^p)^(1/p)`, where `scale_p` and `random_baseline` play no part.

    Equal P stand in the order of activations. A mean of P below 1e-3, which has no real power,
    counts as 1e-3. A constant unit fits every concept: all its scores are 0.

    A block of concepts holds the P of all images that matter, `[block, images]`, because each
    column is sorted: more images mean fewer concepts at once. P is made some images at a time
    and units are prepared in groups, so nothing else in flight grows with the images but the top
    images themselves, 8 bytes each.

    Args:
        p: the power of differences.
        top_fraction: part of the images used, rounded down.
        scale_p: power of the mean of P; 0 leaves it out.
        random_baseline: divide by the expectation under a random order.
        variant: `released` or `eq1`.

    Raises:
        DissectError: a parameter out of its range.

    Source: Sec. 3.2, Eq. (1); DESIGN.md, "Two readings of the paper".
    """

    p: float = 3.0
    top_fraction: float = 0.05
    scale_p: float = 0.5
    random_baseline: bool = True
    variant: str = "released"
    name: ClassVar[str] = "rank_reorder"

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        checks.number("p", self.p, above=0)
        checks.number("top_fraction", self.top_fraction, above=0, most=1)
        checks.number("scale_p", self.scale_p, least=0)
        checks.flag("random_baseline", self.random_baseline)
        checks.choice("variant", self.variant, VARIANTS)

    def images(self, probe: int) -> int:
        """How many top images a unit has in a probe of this many images.

        Raises:
            DissectError: fewer than two, whose order can't say anything.
        """
        # Rounding first: 0.29 * 100 is 28.999999999999996 in floating point.
        count = math.floor(round(self.top_fraction * probe, 6))
        if count < 2:
            raise DissectError(
                f"top_fraction={self.top_fraction!r} of {probe} images keeps {count}; "
                "rank_reorder orders at least 2"
            )
        return count

    def _plan(self, source: Source, q: Activations) -> Plan:
        count = self.images(source.images)
        top = as_top(q, count, source.images, "top_fraction")
        rows, index = union(top.indices, source.images)
        values, factor = self._rescaled(top.values)
        del top
        some, units = source.take(rows), len(index)
        means = some.bag_sums(index) if self.scale_p and self.variant == "released" else None
        # In flight: columns of P and a part of them, the errors and one copy of them.
        floats = len(rows) + ROWS_AT_ONCE + 3 * units
        blocks = concept_blocks(source.concepts, floats, self.memory_gb, source.device)

        def scores(start: int, stop: int) -> Float[Tensor, "units block"]:
            errors = kernels.rank_errors(some.columns(start, stop), index, values, self.p)
            if self.variant == "eq1":
                errors.pow_(1 / self.p)
            elif means is not None:
                mean = means.block(start, stop).div_(count).clamp_min_(_LEAST_MEAN)
                errors.div_(mean.pow_(self.scale_p))
            return errors.mul_(factor)

        return Plan(units, blocks, scores)

    def _rescaled(
        self, values: Float[Tensor, "k units"]
    ) -> tuple[Float[Tensor, "units k"], Float[Tensor, "units 1"]]:
        """Activations in units of their range, and what to multiply sums of errors with.

        So no power overflows, and the factor can be put back afterwards. Some units at a time.
        """
        k, units = values.shape
        out = torch.empty(units, k, dtype=torch.float32, device=values.device)
        factor = torch.empty(units, 1, dtype=torch.float32, device=values.device)
        step = max(1, _ACTIVATIONS_AT_ONCE // k)
        for first in range(0, units, step):
            some = slice(first, first + step)
            wide = values[:, some].T.double()
            lowest, spread = wide[:, -1:], wide[:, :1] - wide[:, -1:]
            unit = (wide - lowest) / torch.where(spread > 0, spread, 1.0)
            out[some], factor[some] = unit, self._factor(unit, spread)
        return out, factor

    def _factor(
        self, unit: Float[Tensor, "units k"], spread: Float[Tensor, "units 1"]
    ) -> Float[Tensor, "units 1"]:
        """What sums of powers of rescaled differences are multiplied with."""
        if self.variant == "eq1":
            return -spread.float()
        if not self.random_baseline:
            return -(spread**self.p / unit.shape[1]).float()
        expected = mean_power(unit, self.p)
        return -torch.where(expected > 0, 1 / (expected * unit.shape[1]), 0.0).float()


def mean_power(values: Float[Tensor, "units k"], p: float) -> Float[Tensor, "units 1"]:
    """`mean_ij |v_i - v_j|^p` of every row, float64.

    Args:
        values: descending, from 1 to 0, or all 0.
        p: the power. For small whole ones the binomial theorem makes it linear in k: with
            `v_i >= v_j` for i < j, `sum_ij = 2 sum_r C(p, r) (-1)^r sum_j v_j^r sum_i<j v_i^(p-r)`.
            A row that spans 0 to 1 has a sum too large for cancellation to matter.
    """
    k = values.shape[1]
    if p in (1, 2, 3, 4):
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
