"""SoftWPMI, the paper's default similarity function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.similarity import checks, kernels
from clipdissect.similarity.base import Activations, Plan, Similarity
from clipdissect.similarity.blocks import concept_blocks
from clipdissect.similarity.membership import MEMBERSHIPS, membership
from clipdissect.similarity.ranking import as_top
from clipdissect.similarity.softmax import Exponentials, grow, safe_group, union
from clipdissect.similarity.sources import ROWS_AT_ONCE, Source


@dataclass(frozen=True)
class SoftWpmi(Similarity):
    """Soft weighted pointwise mutual information.

    `sim = L_km - lam * log p(t_m)`, with `L_km = sum_i log(1 - p_i + p_i * s_im + eps)` over the
    unit's `top_k` images, `s = softmax_m(a * P)` over all concepts, `p_i` the membership of the
    i-th image, and `p(t_m) = mean_k exp(L_km)` over the layer's units.

    Args:
        a: the softmax's inverse temperature.
        lam: weight of the marginal; 1 is pointwise mutual information.
        top_k: images a unit.
        p_start: membership of the most activating image.
        p_end: membership at the end of the top images.
        eps: added inside the logarithm, as released; the paper's equations have none.
        membership: `rank` (as released), `rank_linspace` (as the paper's text reads) or `sigmoid`
            (of the activation); see `membership.membership`.

    Raises:
        DissectError: a parameter out of its range.

    Source: Sec. 3.2 and Appendix, Eqs. (11)-(13).
    """

    a: float = 10.0
    lam: float = 1.0
    top_k: int = 100
    p_start: float = 0.998
    p_end: float = 0.97
    eps: float = 1e-7
    membership: str = "rank"
    name: ClassVar[str] = "soft_wpmi"
    needs_all: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        checks.number("a", self.a, above=0)
        checks.number("lam", self.lam, least=0)
        checks.number("top_k", self.top_k, least=1, whole=True)
        checks.number("p_start", self.p_start, above=0, below=1)
        checks.number("p_end", self.p_end, above=0, below=1)
        if self.p_end > self.p_start:
            raise DissectError(f"p_end={self.p_end!r}: must be > 0 and <= p_start={self.p_start!r}")
        checks.number("eps", self.eps, least=0, below=1)
        checks.choice("membership", self.membership, MEMBERSHIPS)

    @property
    def images_per_unit(self) -> int:
        return self.top_k

    def _plan(self, source: Source, q: Activations) -> Plan:
        top = as_top(q, self.top_k, source.images, "top_k")
        rows, index = union(top.indices, source.images)
        weight = membership(self.membership, top.values, self.p_start, self.p_end)
        base = (1.0 - weight + self.eps).float()
        weight, units, layers = weight.float(), len(index), top.layers
        group = safe_group(1.0 - self.p_start + self.eps)
        del top
        # In flight: P, its exponentials, and the scores.
        floats = len(rows) + 2 * ROWS_AT_ONCE + 2 * units
        blocks = concept_blocks(source.concepts, floats, self.memory_gb, source.device)
        exponentials = Exponentials(source.take(rows), blocks, self.a, self.memory_gb)
        inverse, magnitudes = exponentials.inverse, base.new_zeros(units)

        def scores(start: int, stop: int) -> Float[Tensor, "units block"]:
            block = exponentials.take(start, stop)
            joint = kernels.log_product_sums(block, index, inverse, base, weight, group)
            grow(magnitudes, joint)
            return kernels.less_marginal(joint, self.lam, layers)

        return Plan(units, blocks, scores, magnitudes)
