"""Soft membership: how surely each of a unit's top images belongs to the set that excites it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

MEMBERSHIPS = ("rank", "rank_linspace", "sigmoid")


def membership(
    kind: str, values: Float[Tensor, "k units"], p_start: float, p_end: float
) -> Float[Tensor, "units_or_1 k"]:
    """The probabilities `p(x_i in B_k)` of Eq. (12), float64, best image first.

    Args:
        kind: `rank`: `p_start - i/k * (p_start - p_end)`, as released, which never reaches
            `p_end`; `rank_linspace`: the straight line from `p_start` to `p_end`, as the paper's
            text reads; `sigmoid`: `p_end + (p_start - p_end) * sigmoid(z)` with z the activation
            less the mean of the unit's top images, over their standard deviation. The paper's
            appendix mentions a scaled sigmoid without constants; these are ours. A unit whose top
            images are equally active gets the middle of the range.
        values: activations of the top images.
        p_start: membership at the start of the line.
        p_end: membership at its end.

    Returns:
        One row for all units where the activations don't matter, else one for each.
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
