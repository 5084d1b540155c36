"""The inner loops in plain torch: any device, and the reference of the compiled ones."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.similarity.keys import pack, unpack


def log_product_sums(
    x: Float[Tensor, "images block"],
    index: Int[Tensor, "units k"],
    scale: Float[Tensor, " images"],
    base: Float[Tensor, "units_or_1 k"],
    weight: Float[Tensor, "one_or_units k"],
    group: int,
) -> Float[Tensor, "units block"]:
    """`sum_j log(base_j + weight_j * scale[index_j] * x[index_j])` for every unit and concept.

    Args:
        x: what becomes a probability when multiplied with its image's scale.
        index: each unit's images, rows of `x`.
        scale: a number for each image.
        base: the constant term of every factor; one row serves all units.
        weight: what the probability is multiplied with, likewise.
        group: how many factors can be multiplied before a float32 underflows.
    """
    units, k = index.shape
    total = torch.zeros(units, x.shape[1], dtype=torch.float32, device=x.device)
    run = torch.ones_like(total)
    for j in range(k):
        images = index[:, j]
        scaled = weight[:, j : j + 1] * scale[images, None]
        factor = x.index_select(0, images).mul_(scaled).add_(base[:, j : j + 1])
        run.mul_(factor)
        if (j + 1) % group == 0 or j + 1 == k:
            total.add_(run.log_())
            run.fill_(1.0)
    return total


def less_marginal(joint: Float[Tensor, "units block"], lam: float) -> None:
    """`L - lam * log p(t_m)`, in place, with the marginal `p(t_m) = mean_k exp(L_km)`.

    Source: Eqs. (5) and (11); the marginal over the layer's units is the released code's.
    """
    marginal = torch.logsumexp(joint, dim=0) - math.log(len(joint))
    joint.sub_(marginal.mul_(lam))


def rank_errors(
    columns: Float[Tensor, "block images"],
    index: Int[Tensor, "units k"],
    values: Float[Tensor, "units k"],
    p: float,
) -> Float[Tensor, "units block"]:
    """`sum_j |values[rank_j] - values_j|^p`, rank_j being the place of image j by its P.

    Ranks count from the largest P; equal P stand in the order of activations, which are sorted.

    Args:
        columns: columns of P, as rows, for the images that matter.
        index: each unit's top images in descending order of activation.
        values: their activations.
        p: the power.
    """
    out = torch.empty(len(index), len(columns), dtype=torch.float32, device=columns.device)
    for unit, images in enumerate(index):
        # The image at place r of the order stands at place order[r] in the activations.
        order = columns[:, images].argsort(dim=1, descending=True, stable=True)
        difference = values[unit][order].sub_(values[unit]).abs_()
        out[unit] = difference.pow_(p).sum(1)
    return out


def update_best(
    best: Float[Tensor, "units n"],
    concepts: Int[Tensor, "units n"],
    scores: Float[Tensor, "units block"],
    start: int,
) -> None:
    """Merge a block of scores into the best so far, in place; ties by concept number."""
    kept = best.shape[1]
    numbers = torch.arange(start, start + scores.shape[1], device=scores.device)
    step = max(1, 4_000_000 // scores.shape[1])
    for first in range(0, len(scores), step):
        rows = slice(first, first + step)
        new = torch.topk(pack(scores[rows], numbers), min(kept, scores.shape[1]), dim=1).values
        both = torch.cat([pack(best[rows], concepts[rows]), new], dim=1)
        best[rows], concepts[rows] = unpack(torch.topk(both, kept, dim=1).values)
