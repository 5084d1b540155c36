"""How alike a unit's images are, against sums over pairs."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipdissect.results.coherence import clarity, monosemanticity


def cosine(x: Tensor, y: Tensor) -> float:
    return float(F.cosine_similarity(x.double(), y.double(), dim=0))


def slow_clarity(embeds: Tensor, images: list[int]) -> float:
    pairs = [cosine(embeds[i], embeds[j]) for i, j in combinations(images, 2)]
    return sum(pairs) / len(pairs) if pairs else math.nan


def slow_monosemanticity(embeds: Tensor, unit: Tensor) -> float:
    a = ((unit - unit.min()) / (unit.max() - unit.min())).tolist()
    pairs = [(a[i] * a[j], cosine(embeds[i], embeds[j])) for i, j in combinations(range(len(a)), 2)]
    return sum(w * c for w, c in pairs) / sum(w for w, _ in pairs)


def test_known_numbers() -> None:
    # Two directions at 60 degrees and one at a right angle to the first; lengths don't count.
    embeds = torch.tensor([[2.0, 0.0], [0.5, math.sqrt(3) / 2], [0.0, 3.0]])
    top = torch.tensor([[0, 0], [1, 2]])
    assert clarity(embeds, top).tolist() == pytest.approx([0.5, 0.0], abs=1e-7)
    # Weights of the pairs: 1 x 0.5, 1 x 0, 0.5 x 0; cosines 0.5, 0 and cos 30 degrees.
    activations = torch.tensor([[3.0, 0.0], [2.0, 1.0], [1.0, 1.0]])
    expected = [0.5, math.cos(math.radians(30))]
    assert monosemanticity(embeds, activations).tolist() == pytest.approx(expected, abs=1e-7)


def test_pairs_one_by_one() -> None:
    torch.manual_seed(0)
    embeds, activations = torch.randn(30, 5), torch.randn(30, 7)
    top = activations.topk(6, dim=0).indices
    counted = torch.arange(6)[:, None] < torch.tensor([6, 5, 4, 3, 2, 6, 6])
    expected = [
        slow_clarity(embeds, top[counted[:, u], u].tolist()) for u in range(activations.shape[1])
    ]
    assert clarity(embeds, top, counted).tolist() == pytest.approx(expected, abs=1e-6)
    expected = [slow_monosemanticity(embeds, activations[:, u]) for u in range(7)]
    assert monosemanticity(embeds, activations).tolist() == pytest.approx(expected, abs=1e-6)


def test_undefined() -> None:
    embeds = torch.eye(3)
    top = torch.tensor([[0, 1, 2], [1, 2, 0]])
    counted = torch.tensor([[True, True, False], [True, False, False]])
    assert clarity(embeds, top, counted).isnan().tolist() == [False, True, True]
    assert clarity(embeds, top[:1]).isnan().all()
    # It varies; it is constant; it is active on a single image.
    activations = torch.tensor([[1.0, 4.0, 0.1], [2.0, 4.0, 0.1], [3.0, 4.0, 0.7]])
    assert monosemanticity(embeds, activations).isnan().tolist() == [False, True, True]
