"""Spherical k-means and its silhouette, of many small sets of directions at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

LEAST = 3  # points of a cluster; a text for fewer images is chance
_STARTS = 10  # as scikit-learn's `n_init`
_ROUNDS = 100
_SEED = 0  # of the random numbers of k-means++, which all sets share
_NUMBERS_AT_ONCE, _NUMBERS_AT_ONCE_ON_DEVICE = 500_000, 50_000_000  # sets x starts x clusters x n


def clusterings(
    products: Float[Tensor, "sets n n"], counted: Bool[Tensor, "sets n"], most: int
) -> tuple[Int[Tensor, "numbers sets n"], Float[Tensor, "numbers sets"]]:
    """Return each set's clusters for 2 to `most` centres, and their mean silhouettes.

    Deterministic. The silhouette is -inf where a cluster has fewer than `LEAST` points.

    Args:
        products: cosines of a set's points.
        counted: which points there are; the others are in cluster -1.
    """
    labels = torch.full((most - 1, *counted.shape), -1, device=products.device)
    values = torch.full((most - 1, len(counted)), -torch.inf, device=products.device)
    for k in range(2, most + 1):
        labels[k - 2] = spherical_k_means(products, counted, k)
        members = one_hot(labels[k - 2], k)
        is_small = members.sum(2).amin(1) < LEAST
        values[k - 2] = silhouettes(products, members).masked_fill(is_small, -torch.inf)
    return labels, values


def spherical_k_means(
    products: Float[Tensor, "sets n n"], counted: Bool[Tensor, "sets n"], k: int
) -> Int[Tensor, "sets n"]:
    """Return the clusters with the largest sum of cosines of points and their centres.

    The best of ten starts of k-means++; points that don't count are in cluster -1. Sets of fewer
    than `k` different points have empty clusters.

    Args:
        products: cosines of a set's points; a centre is the direction of a sum of points, so that
            cosines to it need nothing else.

    Source: Dhillon & Modha, Concept decompositions for large sparse text data, 2001.
    """
    n = products.shape[1]
    on_cpu = products.device.type == "cpu"
    numbers = _NUMBERS_AT_ONCE if on_cpu else _NUMBERS_AT_ONCE_ON_DEVICE
    step = max(1, numbers // max(1, _STARTS * k * n))
    parts = [
        _best_of_starts(products[i : i + step], counted[i : i + step], k)
        for i in range(0, len(products), step)
    ]
    return torch.cat(parts) if parts else torch.full(counted.shape, -1, device=products.device)


def silhouettes(
    products: Float[Tensor, "sets n n"], members: Float[Tensor, "sets k n"]
) -> Float[Tensor, " sets"]:
    """Return the mean silhouette of points by `1 - cosine`; 0 of a point alone in its cluster.

    `s = (b - a) / max(a, b)` with the mean distance `a` to the point's own cluster and `b` to the
    nearest other one.

    Source: Rousseeuw, Silhouettes, 1987.
    """
    sizes = members.sum(2, keepdim=True)
    sums = members @ (1 - products)
    own = (members * sums).sum(1) / ((members * sizes).sum(1) - 1).clamp(min=1)
    others = (sums / sizes).masked_fill((members > 0) | (sizes == 0), torch.inf).amin(1)
    # Distances of equal points are 0 but for rounding.
    values = (others - own) / torch.maximum(own, others).clamp(min=1e-6)
    alone = (members * sizes).sum(1) < 2
    counted = members.sum(1)
    total = (values.masked_fill(alone | others.isinf(), 0.0) * counted).sum(1)
    return total / counted.sum(1).clamp(min=1)


def one_hot(labels: Int[Tensor, "*sets n"], k: int) -> Float[Tensor, "*sets k n"]:
    """Return which points are in which cluster; those of cluster -1 are in none."""
    return F.one_hot(labels + 1, k + 1)[..., 1:].transpose(-1, -2).float()


def _best_of_starts(
    products: Float[Tensor, "sets n n"], counted: Bool[Tensor, "sets n"], k: int
) -> Int[Tensor, "sets n"]:
    starts = _starts(products, counted, k)
    cosines = _rows(products, starts)
    labels = _nearest(cosines, counted)
    for _ in range(_ROUNDS):
        cosines, _ = _to_centres(products, labels, k)
        moved = _nearest(cosines, counted)
        if bool((moved == labels).all()):
            break
        labels = moved
    _, sums = _to_centres(products, labels, k)
    best = sums.argmax(1)  # the first of equal ones
    return labels[torch.arange(len(labels), device=labels.device), best]


def _nearest(
    cosines: Float[Tensor, "sets starts k n"], counted: Bool[Tensor, "sets n"]
) -> Int[Tensor, "sets starts n"]:
    best, labels = cosines[:, :, 0], torch.zeros_like(cosines[:, :, 0], dtype=torch.int64)
    for cluster in range(1, cosines.shape[2]):  # on a CPU faster than `argmax(2)`
        labels = torch.where(cosines[:, :, cluster] > best, cluster, labels)
        best = torch.maximum(best, cosines[:, :, cluster])
    return labels.masked_fill(~counted[:, None], -1)


def _to_centres(
    products: Float[Tensor, "sets n n"], labels: Int[Tensor, "sets starts n"], k: int
) -> tuple[Float[Tensor, "sets starts k n"], Float[Tensor, "sets starts"]]:
    """Return the points' cosines to the centres, and the sums of those to their own.

    The sum over a cluster of cosines to its centre is the length of the sum of its points.
    """
    members = one_hot(labels, k)
    dots = (members.flatten(1, 2) @ products).view_as(members)
    lengths = (members * dots).sum(3, keepdim=True).clamp(min=0).sqrt()
    cosines = (dots / lengths.clamp(min=1e-6)).masked_fill(members.sum(3, keepdim=True) == 0, -2.0)
    return cosines, lengths.sum((2, 3))


def _rows(
    products: Float[Tensor, "sets n n"], points: Int[Tensor, "sets starts k"]
) -> Float[Tensor, "sets starts k n"]:
    """Return the cosines of all points to chosen ones."""
    return products[torch.arange(len(products), device=products.device)[:, None, None], points]


def _starts(
    products: Float[Tensor, "sets n n"], counted: Bool[Tensor, "sets n"], k: int
) -> Int[Tensor, "sets starts k"]:
    """Draw points as first centres, with a chance that grows with `1 - cosine` (k-means++).

    Source: Arthur & Vassilvitskii, k-means++, 2007.
    """
    generator = torch.Generator().manual_seed(_SEED)
    draws = torch.rand(_STARTS, k, generator=generator).to(products.device)
    weights = counted[:, None].expand(-1, _STARTS, -1).float()
    chosen: list[Tensor] = []
    for rank in range(k):
        sums = weights.cumsum(2)
        aim = (draws[:, rank] * sums[..., -1])[..., None]
        point = (sums <= aim).sum(2, keepdim=True).clamp(max=products.shape[1] - 1)
        chosen.append(point)
        distances = (1 - _rows(products, point)[:, :, 0]).clamp(min=0) * counted[:, None]
        weights = distances if rank == 0 else torch.minimum(weights, distances)
    return torch.cat(chosen, 2)
