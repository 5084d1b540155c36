"""How alike a unit's images are, against sums over pairs and loops over units."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_dissect import dissect
from tiny import write_colours
from torch import Tensor
from torch.nn import functional as F

from clipdissect.capture.activations import TopKActivations, top_of
from clipdissect.results import coherence
from clipdissect.results.coherence import (
    NAMES,
    clarity,
    monosemanticity,
    polysemanticity,
    redundancy,
    unit_numbers,
)
from clipdissect.results.two_means import two_means


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
    assert clarity(embeds, top).tolist() == pytest.approx([0.5, 0.0], abs=1e-6)
    # Weights of the pairs: 1 x 0.5, 1 x 0, 0.5 x 0; cosines 0.5, 0 and cos 30 degrees.
    activations = torch.tensor([[3.0, 0.0], [2.0, 1.0], [1.0, 1.0]])
    expected = [0.5, math.cos(math.radians(30))]
    assert monosemanticity(embeds, activations).tolist() == pytest.approx(expected, abs=1e-6)


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


# Two directions at a right angle, and one at 60 degrees to the first.
A, B, C = [1.0, 0.0], [0.0, 1.0], [0.5, math.sqrt(3) / 2]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([A, A, B, B], 1.0),
        ([C, A, C, A], 0.5),
        ([A, A, A], 0.0),
        # A cluster of one image: cosines to the mean, (3, 1), are 3 / sqrt 10 and 1 / sqrt 10.
        ([A, A, A, B], 1 - 10 / (4 * math.sqrt(10))),
        ([A, B], 1 - math.sqrt(0.5)),
        # Only the first ten of twelve are compared with the mean of all, (11, 1).
        ([A] * 11 + [B], 1 - 11 / math.sqrt(122)),
        ([A], math.nan),
    ],
)
def test_polysemanticity(images: list[list[float]], expected: float) -> None:
    embeds = 3 * torch.tensor([*images, [-1.0, 0.0]])  # the last isn't among the top images
    top = torch.arange(len(images))[:, None]
    assert polysemanticity(embeds, top).tolist() == pytest.approx([expected], abs=1e-6, nan_ok=True)
    # The same with images that don't count.
    both = torch.cat([torch.full((2, 1), len(images)), top])
    counted = torch.arange(len(both))[:, None] >= 2
    found = polysemanticity(embeds, both, counted).tolist()
    assert found == pytest.approx([expected], abs=1e-6, nan_ok=True)


def lloyd(points: np.ndarray, i: int, j: int) -> float:
    """K-means from two of the points, one distance after the other."""
    centres = points[[i, j]].copy()
    for _ in range(50):
        distances = ((points[:, None] - centres) ** 2).sum(2)
        label = distances.argmin(1)
        for c in (0, 1):
            if (label == c).any():
                centres[c] = points[label == c].mean(0)
    return float(((points - centres[label]) ** 2).sum())


def clusters(sets: int, n: int) -> Tensor:
    """Points like the embeddings of top images: three directions, a common one, and noise."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(sets, 3, 64, generator=generator)
    chosen = torch.randint(0, 3, (sets, n), generator=generator)[:, :, None].expand(-1, -1, 64)
    noise = torch.randn(sets, n, 64, generator=generator)
    return F.normalize(centres.gather(1, chosen) + 1.2 * noise + 0.5, dim=2)


def test_two_means_are_the_best_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    points, counted = clusters(6, 8), torch.ones(6, 8, dtype=torch.bool)
    counted[1, 5:] = counted[2, :3] = False
    monkeypatch.setattr("clipdissect.results.two_means._NUMBERS_AT_ONCE", 500)  # blocks of 2 sets
    first, sums = two_means(points @ points.mT, counted)
    for n in range(6):
        own = points[n, counted[n]].double().numpy()
        best = min(lloyd(own, i, j) for i, j in combinations(range(len(own)), 2))
        assert float(sums[n]) == pytest.approx(best, abs=1e-5)
        sides = [points[n, first[n]], points[n, counted[n] & ~first[n]]]
        spread = sum(float((side - side.mean(0)).square().sum()) for side in sides)
        assert spread == pytest.approx(best, abs=1e-5)


def test_two_means_are_no_worse_than_scikit_learns() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    points = clusters(40, 20)
    _, sums = two_means(points @ points.mT, torch.ones(40, 20, dtype=torch.bool))
    theirs = [cluster.KMeans(2, n_init=10, random_state=123).fit(p).inertia_ for p in points]
    assert (sums <= torch.tensor(theirs) + 1e-4).all()
    assert float(sums.mean()) == pytest.approx(np.mean(theirs), rel=0.01)


def test_redundancy(monkeypatch: pytest.MonkeyPatch) -> None:
    embeds = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    # Means at 0, 45 and 180 degrees; the fourth unit is dead, with the second's images.
    top = torch.tensor([[0, 0, 3, 0], [2, 1, 3, 1]])
    counted = torch.tensor([[True, True, True, False]] * 2)
    expected = [math.sqrt(0.5), math.sqrt(0.5), -math.sqrt(0.5), math.nan]
    for numbers in (coherence._NUMBERS_AT_ONCE, 3):  # one unit after the other
        monkeypatch.setattr(coherence, "_NUMBERS_AT_ONCE", numbers)
        found = redundancy(embeds, top, counted).tolist()
        assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert redundancy(embeds, top[:, :1]).isnan().all()


def test_blocks_of_units_and_images_that_outweigh_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(1)
    embeds, activations = torch.randn(40, 6), torch.rand(40, 9)
    activations[:, 3] = 0
    activations[:5, 3] = torch.tensor([1.0, 1e-6, 3e-6, 2e-6, 1e-6])  # float32 can't tell its pairs
    activations[:, 4] += 1000  # varies by a thousandth
    expected = [slow_monosemanticity(embeds, activations[:, u].double()) for u in range(9)]
    top = activations.topk(8, dim=0).indices
    of_top = [clarity(embeds, top), polysemanticity(embeds, top)]
    monkeypatch.setattr(coherence, "_NUMBERS_AT_ONCE", 100)
    assert monosemanticity(embeds, activations).tolist() == pytest.approx(expected, abs=1e-6)
    for function, before in zip((clarity, polysemanticity), of_top, strict=True):
        assert function(embeds, top).tolist() == pytest.approx(before.tolist(), abs=1e-6)


def numbers(activations: Tensor | TopKActivations, embeds: Tensor, latents: bool) -> pd.DataFrame:
    return unit_numbers("fc", activations, top_of(activations, 30), embeds, latents)


def test_numbers_of_dead_units_and_latents() -> None:
    torch.manual_seed(2)
    embeds, activations = torch.randn(50, 8), torch.rand(50, 4)
    activations[:, 1] = 0.5  # never varies
    activations[3:, 2] = 0  # fires on three images
    table = numbers(activations, embeds, latents=False)
    assert list(table) == ["layer", "unit", *NAMES]
    assert table[list(NAMES)].isna().all(axis=1).tolist() == [False, True, False, False]
    top = activations.topk(20, dim=0).indices  # `IMAGES` of the 30
    assert table["clarity"][0] == pytest.approx(slow_clarity(embeds, top[:, 0].tolist()), abs=1e-6)
    latents = numbers(activations, embeds, latents=True)
    assert latents["clarity"][2] == pytest.approx(slow_clarity(embeds, [0, 1, 2]), abs=1e-6)
    # Of the top 20 only: MonoSemanticity takes all activations.
    stored = numbers(TopKActivations.of(activations, torch.arange(50), 20), embeds, latents=True)
    assert stored["monosemanticity"].isna().all()
    assert stored["clarity"].tolist() == pytest.approx(latents["clarity"].tolist(), nan_ok=True)


def test_units_of_a_run(tmp_path: Path) -> None:
    write_colours(tmp_path / "images")
    result = dissect(tmp_path / "images", images=3)
    folder = result.save(tmp_path / "run")
    table = pd.read_csv(folder / "units.csv")
    assert list(table) == ["layer", "unit", *NAMES]
    assert (table["layer"] == "head").all() and table["unit"].tolist() == [0, 1, 2, 3]
    assert table[list(NAMES)].isna().all(axis=1).tolist() == [False, False, False, True]
    # The second run reads the layer's activations from the store, and the third its summary.
    for _ in range(2):
        again = dissect(tmp_path / "images", images=3)
        pd.testing.assert_frame_equal(again.unit_metrics, result.unit_metrics)
    # A method that embeds no images writes none, and leaves none of an earlier run.
    replace(result, unit_metrics=pd.DataFrame()).save(folder)
    assert not (folder / "units.csv").exists()
