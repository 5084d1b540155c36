"""The parts WPMI and SoftWPMI share: the softmax over all concepts and the marginal over units."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.similarity.blocks import Blocks

# exp(40) times any number of concepts, and exp(-40), are normal float32 numbers.
_SAFE_EXPONENT = 40.0


def union(
    indices: Int[Tensor, "k units"], images: int
) -> tuple[Int[Tensor, " some"], Int[Tensor, "units k"]]:
    """The images that are among the top of any unit, and each unit's as places among those."""
    seen = torch.zeros(images, dtype=torch.bool, device=indices.device)
    seen[indices.reshape(-1)] = True
    place = (seen.cumsum(0) - 1).int()
    return seen.nonzero()[:, 0], place[indices.T.contiguous()]


def log_normaliser(
    block: Callable[[int, int], Float[Tensor, "images block"]], blocks: Blocks, a: float
) -> Float[Tensor, "images 1"]:
    """`logsumexp_m(a * P_im)` over all concepts, float64: the softmax's denominators.

    Args:
        block: `(start, stop) -> P[:, start:stop]`, left as it is.
        blocks: ranges that cover all concepts.
        a: inverse temperature.

    Source: Eq. (13), with the temperature of the released code.
    """
    total: Tensor | None = None
    for start, stop in blocks:
        part = _log_sum_exp(block(start, stop).mul(a)).double()
        total = part if total is None else torch.logaddexp(total, part)
    assert total is not None  # there is at least one concept
    return total[:, None]


def _log_sum_exp(x: Float[Tensor, "images block"]) -> Float[Tensor, " images"]:
    """`logsumexp` over the block; overwrites it.

    Cosines times a usual temperature are far from what a float32 can't hold, so that the pass for
    each row's maximum, and a copy, can be saved.
    """
    least, most = torch.aminmax(x)
    if float(least) < -_SAFE_EXPONENT or float(most) > _SAFE_EXPONENT:
        return torch.logsumexp(x, dim=1)
    return x.exp_().sum(dim=1).log_()


def less_marginal(joint: Float[Tensor, "units block"], lam: float) -> Float[Tensor, "units block"]:
    """`L - lam * log p(t_m)`, in place, with the marginal `p(t_m) = mean_k exp(L_km)`.

    Source: Eqs. (5) and (11); the marginal over the layer's units is the released code's.
    """
    if lam == 0:
        return joint
    marginal = torch.logsumexp(joint, dim=0) - math.log(len(joint))
    return joint.sub_(marginal.mul_(lam))
