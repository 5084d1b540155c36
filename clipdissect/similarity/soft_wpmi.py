"""SoftWPMI, the paper's default similarity function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.similarity import checks
from clipdissect.similarity.softmax import Factors, MutualInformation

MEMBERSHIPS = ("rank", "rank_linspace", "sigmoid")


@dataclass(frozen=True)
class SoftWpmi(MutualInformation):
    """Soft weighted pointwise mutual information (Sec. 3.2; Appendix, Eqs. (11)-(13)).

    `sim = L_km - lam * log p(t_m)`, with `L_km = sum_i log(1 - p_i + p_i * s_im + eps)` over the
    unit's `top_k` images, `s = softmax_m(a * P)` over all concepts, `p_i` the membership of the
    i-th image, and `p(t_m) = mean_k exp(L_km)` over the layer's units.

    Args:
        a: the softmax's inverse temperature.
        lam: weight of the marginal; 1 is pointwise mutual information.
        top_k: top images per unit.
        p_start: membership of the most activating image.
        p_end: membership at the end of the top images.
        eps: added inside the logarithm, as released; the paper's equations have none.
        membership: `rank` (as released), `rank_linspace` (as in the paper's text) or `sigmoid`
            (of the activation); see `soft_wpmi.membership`.
    """

    a: float = 10.0
    lam: float = 1.0
    top_k: int = 100
    p_start: float = 0.998
    p_end: float = 0.97
    eps: float = 1e-7
    membership: str = "rank"
    name: ClassVar[str] = "soft_wpmi"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("p_start", self.p_start, above=0, below=1)
        checks.number("p_end", self.p_end, above=0, below=1)
        if self.p_end > self.p_start:
            raise DissectError(f"p_end={self.p_end!r}: must be > 0 and <= p_start={self.p_start!r}")
        checks.choice("membership", self.membership, MEMBERSHIPS)

    def factors(self, values: Float[Tensor, "k units"]) -> Factors:
        weight = membership(self.membership, values, self.p_start, self.p_end)
        # 1 - p_i in float64: in float32, 1 - 0.998 keeps five digits.
        base = (1.0 - weight + self.eps).float()
        return Factors(base, weight.float(), 1.0 - self.p_start + self.eps)


def membership(
    kind: str, values: Float[Tensor, "k units"], p_start: float, p_end: float
) -> Float[Tensor, "units_or_1 k"]:
    """Compute `p(x_i in B_k)` of Eq. (12), float64, best image first; one row, or one per unit.

    `rank`: `p_start - i/k * (p_start - p_end)`, as released, which never reaches `p_end`.
    `rank_linspace`: the line from `p_start` to `p_end`, as in the paper's text.
    `sigmoid`: `p_end + (p_start - p_end) * sigmoid(z)`, with z the top activations standardised
    per unit; the paper's appendix gives no constants, so these are ours.
    """
    k = len(values)
    if kind == "sigmoid":
        wide = values.T.double()
        spread = wide.std(dim=1, correction=0, keepdim=True)
        z = (wide - wide.mean(dim=1, keepdim=True)) / torch.where(spread > 0, spread, 1.0)
        return p_end + (p_start - p_end) * torch.sigmoid(z)
    steps = torch.arange(k, dtype=torch.float64, device=values.device)
    steps /= max(1, k - 1) if kind == "rank_linspace" else k
    return (p_start - steps * (p_start - p_end))[None]
