"""Weighted pointwise mutual information."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from clipdissect.similarity import checks, kernels
from clipdissect.similarity.base import Activations, Plan, Similarity
from clipdissect.similarity.blocks import concept_blocks
from clipdissect.similarity.ranking import as_top
from clipdissect.similarity.softmax import Exponentials, grow, safe_group, union
from clipdissect.similarity.sources import ROWS_AT_ONCE, Source


@dataclass(frozen=True)
class Wpmi(Similarity):
    """Weighted pointwise mutual information.

    `sim = L_km - lam * log p(t_m)`, with `L_km = sum_i log(s_im + eps)` over the unit's `top_k`
    images, `s = softmax_m(a * P)` over all concepts and `p(t_m) = mean_k exp(L_km)` over the
    layer's units. With `eps=0`, the paper's equation, `L_km = a * (sum_i I_i) . T_m - sum_i lse_i`:
    one small matrix product in place of the logarithms.

    Args:
        a: the softmax's inverse temperature.
        lam: weight of the marginal.
        top_k: images a unit.
        eps: added inside the logarithm, as released; 0 is the paper's equation.

    Raises:
        DissectError: a parameter out of its range.

    Source: Sec. 3.2, Eqs. (5)-(7).
    """

    a: float = 2.0
    lam: float = 0.6
    top_k: int = 28
    eps: float = 1e-7
    name: ClassVar[str] = "wpmi"
    needs_all: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        checks.number("a", self.a, above=0)
        checks.number("lam", self.lam, least=0)
        checks.number("top_k", self.top_k, least=1, whole=True)
        checks.number("eps", self.eps, least=0, below=1)

    @property
    def images_per_unit(self) -> int:
        return self.top_k

    def _plan(self, source: Source, q: Activations) -> Plan:
        top = as_top(q, self.top_k, source.images, "top_k")
        rows, index = union(top.indices, source.images)
        some = source.take(rows)
        plan = self._linear if self.eps == 0 else self._elementwise
        return plan(some, index, top.layers)

    def _linear(self, some: Source, index: Int[Tensor, "units k"], layers: tuple[int, ...]) -> Plan:
        units = len(index)
        # In flight: a part of P, then the scores and one copy of them.
        floats = max(2 * ROWS_AT_ONCE, 3 * units)
        blocks = concept_blocks(some.concepts, floats, self.memory_gb, some.device)
        exponentials = Exponentials(some, blocks, self.a, self.memory_gb, keep=False)
        constant = embedding_bag(index, exponentials.log_normaliser[:, None], mode="sum").float()
        sums = some.bag_sums(index)
        magnitudes = torch.zeros(units, dtype=torch.float32, device=some.device)

        def scores(start: int, stop: int) -> Float[Tensor, "units block"]:
            joint = sums.block(start, stop).mul_(self.a).sub_(constant)
            grow(magnitudes, joint)
            return kernels.less_marginal(joint, self.lam, layers)

        return Plan(units, blocks, scores, magnitudes)

    def _elementwise(
        self, some: Source, index: Int[Tensor, "units k"], layers: tuple[int, ...]
    ) -> Plan:
        units = len(index)
        # In flight: P, its exponentials, and the scores.
        floats = some.images + 2 * ROWS_AT_ONCE + 2 * units
        blocks = concept_blocks(some.concepts, floats, self.memory_gb, some.device)
        exponentials = Exponentials(some, blocks, self.a, self.memory_gb)
        inverse = exponentials.inverse
        ones = torch.ones(1, self.top_k, dtype=torch.float32, device=some.device)
        base, group = ones * self.eps, safe_group(self.eps)
        magnitudes = torch.zeros(units, dtype=torch.float32, device=some.device)

        def scores(start: int, stop: int) -> Float[Tensor, "units block"]:
            block = exponentials.take(start, stop)
            joint = kernels.log_product_sums(block, index, inverse, base, ones, group)
            grow(magnitudes, joint)
            return kernels.less_marginal(joint, self.lam, layers)

        return Plan(units, blocks, scores, magnitudes)
