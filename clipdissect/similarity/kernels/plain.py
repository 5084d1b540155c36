"""The inner loops in plain torch: any device, and the reference of the compiled ones."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

# P values that `rank_errors` sorts at once: a sort takes some 30 bytes for each.
_SORTED_AT_ONCE = 8_000_000
_LOW_32 = 0xFFFFFFFF
_ALL_BUT_SIGN = 0x7FFFFFFF


def sort_keys(
    values: Float[Tensor, "*shape"], numbers: Int[Tensor, "*#shape"]
) -> Int[Tensor, "*shape"]:
    """Combine float32 values and numbers below 2^32 in integers, all different.

    Descending keys are descending values; ties by ascending number, on any device.
    """
    # Adding zero turns -0.0 into 0.0: they are equal, so only the number may decide.
    bits = (values + 0.0).view(torch.int32)
    # IEEE 754 bit patterns order as the values do, negative ones in reverse.
    ordered = bits ^ ((bits >> 31) & _ALL_BUT_SIGN)
    return (ordered.long() << 32) | (_LOW_32 - numbers)


def from_sort_keys(
    keys: Int[Tensor, "*shape"],
) -> tuple[Float[Tensor, "*shape"], Int[Tensor, "*shape"]]:
    """Return the values (float32) and numbers (int64) of keys."""
    ordered = (keys >> 32).int()
    bits = ordered ^ ((ordered >> 31) & _ALL_BUT_SIGN)
    return bits.view(torch.float32), _LOW_32 - (keys & _LOW_32)


def largest(
    values: Float[Tensor, "rows columns"], numbers: Int[Tensor, " columns"], k: int
) -> tuple[Float[Tensor, "rows k"], Int[Tensor, "rows k"]]:
    """Return each row's `k` largest values and their numbers, ties by ascending number."""
    # Selecting floats is several times faster than selecting keys, but ties at the last place are
    # then decided at random: one more value than needed shows where there are any.
    best = torch.topk(values, min(k + 1, values.shape[1]), dim=1)
    keys = sort_keys(best.values[:, :k], numbers[best.indices[:, :k]]).sort(1, True).values
    if best.values.shape[1] > k:
        tied = (best.values[:, k - 1] == best.values[:, k]).nonzero()[:, 0]
        if len(tied):
            keys[tied] = torch.topk(sort_keys(values[tied], numbers), k, dim=1).values
    return from_sort_keys(keys)


def exponentials(
    x: Float[Tensor, "rows block"],
    a: float,
    shift: Float[Tensor, " rows"] | None,
    out: Float[Tensor, "rows block"],
    sums: Float[Tensor, " rows"] | None,
) -> None:
    """Compute `out = exp(a * x - shift)` and add its row sums to `sums` (float64); x is changed."""
    x.mul_(a)
    if shift is not None:
        x.sub_(shift[:, None])
    torch.exp(x, out=out)
    if sums is not None:
        sums += out.sum(dim=1)


def log_product_sums(
    x: Float[Tensor, "images block"],
    index: Int[Tensor, "units k"],
    scale: Float[Tensor, " images"],
    base: Float[Tensor, "units_or_1 k"],
    weight: Float[Tensor, "one_or_units k"],
    group: int,
) -> Float[Tensor, "units block"]:
    """Compute `sum_j log(base_j + weight_j * scale[index_j] * x[index_j])` per unit and concept.

    `group` factors are multiplied before one logarithm; see `softmax.safe_group`.
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
    """Compute `L - lam * log p(t_m)` in place, with the marginal `p(t_m) = mean_k exp(L_km)`."""
    # Eqs. (5) and (11), with the released code's marginal over the layer's units:
    # log mean exp(L) = logsumexp(L) - log(units), which doesn't underflow at L near -200.
    marginal = torch.logsumexp(joint, dim=0) - math.log(len(joint))
    joint.sub_(marginal.mul_(lam))


def rank_errors(
    columns: Float[Tensor, "block images"],
    index: Int[Tensor, "units k"],
    values: Float[Tensor, "units k"],
    p: float,
) -> Float[Tensor, "units block"]:
    """Compute `sum_j |values[rank_j] - values_j|^p`, with rank_j the rank of image j by its P.

    `columns` are columns of P as rows; a unit's images descend by activation, as do ties in P.
    """
    out = torch.empty(len(index), len(columns), dtype=torch.float32, device=columns.device)
    step = max(1, _SORTED_AT_ONCE // (len(columns) * index.shape[1]))
    for first in range(0, len(index), step):
        units = slice(first, first + step)
        activations = values[units].expand(len(columns), -1, -1)
        # The image at place r of the order stands at place order[r] in the activations.
        order = columns[:, index[units]].argsort(dim=2, descending=True, stable=True)
        difference = activations.gather(2, order).sub_(activations).abs_()
        out[units] = difference.pow_(p).sum(2).T
    return out


def dense_places(columns: Float[Tensor, "block images"]) -> Int[Tensor, "block images"]:
    """Rank each row's values from the largest, int32; equal values share a place."""
    ordered, order = columns.sort(dim=1, descending=True)
    place = torch.zeros_like(ordered, dtype=torch.int32)
    torch.cumsum(ordered[:, 1:] != ordered[:, :-1], 1, out=place[:, 1:])
    return torch.empty_like(place).scatter_(1, order, place)


def update_best(
    best: Float[Tensor, "units n"],
    concepts: Int[Tensor, "units n"],
    scores: Float[Tensor, "units block"],
    start: int,
) -> None:
    """Merge a block of scores into the best so far, in place; ties in concept order."""
    n = best.shape[1]
    numbers = torch.arange(start, start + scores.shape[1], device=scores.device)
    new = sort_keys(*largest(scores, numbers, min(n, scores.shape[1])))
    both = torch.cat([sort_keys(best, concepts), new], dim=1)
    best[:], concepts[:] = from_sort_keys(torch.topk(both, n, dim=1).values)
