"""Spherical k-means and silhouettes, against slow references."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipdissect.results.clusters import (
    LEAST,
    clusterings,
    one_hot,
    silhouettes,
    spherical_k_means,
)


def blobs(sets: int, sizes: tuple[int, ...], noise: float = 0.3, seed: int = 0) -> Tensor:
    """Directions around random centres, one after another."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(sets, len(sizes), 16, generator=generator)
    points = torch.repeat_interleave(centres, torch.tensor(sizes), 1)
    return F.normalize(points + noise * torch.randn(points.shape, generator=generator), dim=-1)


def everyone(points: Tensor) -> Tensor:
    return torch.ones(points.shape[:2], dtype=torch.bool)


def quality(points: Tensor, labels: Tensor, k: int) -> float:
    """The sum of cosines to the centres, by the definition."""
    total = 0.0
    for cluster in range(k):
        members = points[labels == cluster]
        if len(members):
            total += float((members @ F.normalize(members.sum(0), dim=0)).sum())
    return total


def silhouette(points: Tensor, labels: Tensor) -> float:
    """By the definition, point by point."""
    far = 1 - points @ points.T
    values = []
    for i, own in enumerate(labels.tolist()):
        same = (labels == own) & (torch.arange(len(labels)) != i)
        if not same.any():
            values.append(0.0)
            continue
        others = [float(far[i, labels == c].mean()) for c in set(labels.tolist()) - {own}]
        a, b = float(far[i, same].mean()), min(others)
        values.append((b - a) / max(a, b))
    return sum(values) / len(values)


@pytest.mark.parametrize("k", [2, 3])
def test_nearly_the_best_of_all_partitions_is_found(k: int) -> None:
    points = blobs(6, (7,), noise=2.0)
    labels = spherical_k_means(points @ points.mT, everyone(points), k)
    partitions = torch.tensor(list(product(range(k), repeat=6)))
    partitions = torch.cat([torch.zeros(len(partitions), 1, dtype=torch.long), partitions], 1)
    shares = []
    for x, found in zip(points, labels, strict=True):
        sums = torch.stack([(partitions == c).float() @ x for c in range(k)])
        shares.append(quality(x, found, k) / float(sums.norm(dim=2).sum(0).max()))
    assert min(shares) > 0.99 and max(shares) == pytest.approx(1, abs=1e-5)


def test_silhouettes_are_as_defined() -> None:
    points = blobs(5, (4, 3), noise=1.0)
    labels = torch.tensor([0, 0, 1, 1, 2, 0, 1]).expand(5, -1)
    found = silhouettes(points @ points.mT, one_hot(labels, 3))
    wanted = [silhouette(x, labels[0]) for x in points]
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)


def test_clear_clusters_are_found_with_their_number() -> None:
    for sizes in ((7, 5), (4, 4, 4), (5, 3, 4, 8)):
        points = blobs(6, sizes, noise=0.1)
        labels, values = clusterings(points @ points.mT, everyone(points), 5)
        assert values.argmax(0).tolist() == [len(sizes) - 2] * 6
        wanted = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
        for found in labels[len(sizes) - 2]:
            pairs = set(zip(found.tolist(), wanted.tolist(), strict=True))
            assert len(pairs) == len(sizes)  # one to one


def test_points_that_dont_count_change_nothing() -> None:
    points = blobs(3, (6, 5))
    alone = clusterings(points @ points.mT, everyone(points), 3)
    more = torch.cat([blobs(3, (4,), seed=1), points], 1)
    counted = everyone(more)
    counted[:, :4] = False
    labels, values = clusterings(more @ more.mT, counted, 3)
    assert (labels[:, :, :4] == -1).all()
    torch.testing.assert_close(values[0], alone[1][0])
    assert values[0].isfinite().all()


def test_small_clusters_and_few_points_dont_count() -> None:
    points = blobs(4, (10, LEAST - 1), noise=0.05)
    _, values = clusterings(points @ points.mT, everyone(points), 2)
    assert (values == -torch.inf).all()
    same = torch.ones(2, 5, 1)
    _, values = clusterings(same @ same.mT, everyone(same), 3)
    assert (values == -torch.inf).all()
    none = torch.zeros(0, 5, 5)
    assert clusterings(none, torch.ones(0, 5, dtype=torch.bool), 3)[0].shape == (2, 0, 5)


def test_sets_dont_change_each_other() -> None:
    points = blobs(40, (9, 11), noise=1.5)
    products = points @ points.mT
    together = spherical_k_means(products, everyone(points), 3)
    alone = [spherical_k_means(x[None], everyone(points)[:1], 3)[0] for x in products]
    assert torch.equal(together, torch.stack(alone))
