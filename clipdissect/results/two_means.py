"""K-means with two clusters, of many small sets of points at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_ROUNDS = 300  # as scikit-learn's
_NUMBERS_AT_ONCE, _NUMBERS_AT_ONCE_ON_DEVICE = 100_000, 50_000_000  # sets x starts x points


def two_means(
    products: Float[Tensor, "sets n n"], counted: Bool[Tensor, "sets n"]
) -> tuple[Bool[Tensor, "sets n"], Float[Tensor, " sets"]]:
    """Return the points of each set's first cluster, and the sum of squares within both clusters.

    Every pair of points is a start. The starts of k-means++ are such pairs, so that no number of
    its random starts gives a smaller sum. Sets of equal points have an empty second cluster.

    Args:
        products: dot products of a set's points; centres are means of points, so that distances
            need nothing else.
        counted: which points there are; at least 2 per set, else the clusters are arbitrary.
    """
    n = products.shape[1]
    starts = torch.combinations(torch.arange(n, device=products.device)).T
    numbers = _NUMBERS_AT_ONCE if products.device.type == "cpu" else _NUMBERS_AT_ONCE_ON_DEVICE
    step = max(1, numbers // max(1, starts.shape[1] * n))
    parts = [
        _best_of_starts(products[i : i + step], counted[i : i + step], starts)
        for i in range(0, len(products), step)
    ]
    first, sums = zip(*parts, strict=True)
    return torch.cat(first), torch.cat(sums)


def _best_of_starts(
    products: Float[Tensor, "sets n n"],
    counted: Bool[Tensor, "sets n"],
    starts: Int[Tensor, "2 starts"],
) -> tuple[Bool[Tensor, "sets n"], Float[Tensor, " sets"]]:
    lengths = products.diagonal(dim1=1, dim2=2)
    one, other = (2 * products[:, i] - lengths[:, i, None] for i in starts)
    first = one >= other
    for _ in range(_ROUNDS):
        sums, closer = _step(products, counted[:, None], first)
        if bool((closer == first).all()):
            break
        first = closer
    is_start = counted[:, starts[0]] & counted[:, starts[1]]
    best = sums.masked_fill(~is_start, torch.inf).argmin(1, keepdim=True)
    members = first.gather(1, best[:, :, None].expand(-1, -1, first.shape[2]))[:, 0]
    return members & counted, sums.gather(1, best)[:, 0]


def _step(
    products: Float[Tensor, "sets n n"],
    counted: Bool[Tensor, "sets 1 n"],
    first: Bool[Tensor, "sets starts n"],
) -> tuple[Float[Tensor, "sets starts"], Bool[Tensor, "sets starts n"]]:
    """Return the sums of squares within clusters, and which points the first centre is closer to.

    Of a centre c and a point x, `|x - c|^2 = |x|^2 - 2 x.c + |c|^2`; `|x|^2` is left out.
    """
    squares = (products.diagonal(dim1=1, dim2=2)[:, None] * counted).sum(2)
    one = (first & counted).to(products.dtype)
    other = (~first & counted).to(products.dtype)
    of_one = one @ products
    of_other = counted.to(products.dtype) @ products - of_one
    within, distances = squares, []
    for members, dots in ((one, of_one), (other, of_other)):
        size = members.sum(2, keepdim=True)
        centre = dots / size.clamp(min=1)
        length = (members * centre).sum(2, keepdim=True) / size.clamp(min=1)
        within = within - (size * length)[:, :, 0]
        distances.append((length - 2 * centre).masked_fill(size == 0, torch.inf))
    return within, distances[0] <= distances[1]
