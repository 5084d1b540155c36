"""Weighted pointwise mutual information."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag

from clipdissect.similarity import kernels
from clipdissect.similarity.base import Activations, Plan
from clipdissect.similarity.ranking import as_top
from clipdissect.similarity.softmax import (
    Exponentials,
    Factors,
    MutualInformation,
    grow,
    union,
)
from clipdissect.similarity.sources import Source, concept_blocks, rows_at_once


@dataclass(frozen=True)
class Wpmi(MutualInformation):
    """Weighted pointwise mutual information (Sec. 3.2, Eqs. (5)-(7)).

    `sim = L_km - lam * log p(t_m)`, with `L_km = sum_i log(s_im + eps)` over the unit's `top_k`
    images, `s = softmax_m(a * P)` over all concepts and `p(t_m) = mean_k exp(L_km)` over the
    layer's units. With `eps=0`, one small matrix product replaces the logarithms.

    Args:
        a: the softmax's inverse temperature.
        lam: weight of the marginal.
        top_k: top images per unit.
        eps: added inside the logarithm, as in the released code; 0 is the paper's equation.
    """

    a: float = 2.0
    lam: float = 0.6
    top_k: int = 28
    eps: float = 1e-7
    name: ClassVar[str] = "wpmi"

    def factors(self, values: Float[Tensor, "k units"]) -> Factors:
        ones = torch.ones(1, self.top_k, dtype=torch.float32, device=values.device)
        return Factors(ones * self.eps, ones, self.eps)

    def _plan(self, source: Source, q: Activations) -> Plan:
        if self.eps > 0:
            return super()._plan(source, q)
        top = as_top(q, self.top_k, source.images, "top_k")
        rows, index = union(top.indices, source.images)
        selected, units = source.take(rows), len(index)
        # In use: a chunk of P, then the scores and one copy of them.
        floats = max(2 * rows_at_once(source.device), 3 * units)
        blocks = concept_blocks(source.concepts, floats, self.memory_gb, source.device)
        exponentials = Exponentials(selected, blocks, self.a, self.memory_gb, keep=False)
        lse_sums = embedding_bag(index, exponentials.log_normaliser[:, None], mode="sum").float()
        sums = selected.bag_sums(index)
        magnitudes = torch.zeros(units, dtype=torch.float32, device=source.device)

        def scores(start: int, stop: int) -> Float[Tensor, "units block"]:
            # L_km = a * (sum_i I_i) . T_m - sum_i lse_i
            joint = sums.block(start, stop).mul_(self.a).sub_(lse_sums)
            grow(magnitudes, joint)
            return kernels.less_marginal(joint, self.lam, top.layers, top.extra)

        return Plan(units, blocks, scores, magnitudes)
