"""Simulation scores, the calibration of their encoder, and which encoders may be used."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from tiny import ColourEncoder
from tiny_encoders import PlaneEncoder
from torch import Tensor, nn
from torch.nn import functional as F

from clipdissect.encoder.calibration import (
    BIASES,
    PUBLISHED,
    SCALES,
    Calibration,
    fit_calibration,
    published_calibration,
    simulate,
)
from clipdissect.encoder.lazy import lazy
from clipdissect.encoder.presets import PRESETS
from clipdissect.encoder.prompts import PromptEncoder
from clipdissect.errors import DissectError
from clipdissect.scores import kernels
from clipdissect.scores.base import Pairs
from clipdissect.scores.kernels import plain
from clipdissect.scores.simulation import check_encoders, simulation_scores


def pairs(*both: tuple[int, int]) -> Pairs:
    units, texts = np.array(both, dtype=np.int64).reshape(-1, 2).T
    return Pairs(units, texts)


@pytest.fixture(params=["numba", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setenv("CLIPDISSECT_KERNELS", "torch")
    else:
        monkeypatch.delenv("CLIPDISSECT_KERNELS", raising=False)
    return str(request.param)


def test_by_hand(backend: str) -> None:
    # Deviations -2 -1 0 1 2 and -1 -1 -1 -1 4: 10 / sqrt(10 * 20). Ranks of the second: 2.5 2.5
    # 2.5 2.5 5, deviations -.5 -.5 -.5 -.5 2: 5 / sqrt(10 * 5).
    activations = torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]])
    simulated = torch.tensor([[0.0], [0.0], [0.0], [0.0], [5.0]])
    scores = simulation_scores(activations, simulated, pairs((0, 0)))
    assert scores["simulation"] == pytest.approx([10 / math.sqrt(200)], abs=1e-6)
    assert scores["simulation_spearman"] == pytest.approx([5 / math.sqrt(50)], abs=1e-6)


@pytest.mark.parametrize("share", [0.02, 1.0])  # by a loop over pairs, and by a matrix product
def test_equals_scipy(backend: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipdissect.scores.simulation._NUMBERS_AT_ONCE", 1000)  # many blocks
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(60, 40, generator=generator).relu()  # half of them tie at 0
    simulated = 1e-25 * torch.rand(60, 50, generator=generator)  # squares underflow in float32
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(50)), -1).reshape(-1, 2)
    chosen = np.random.default_rng(0).choice(grid, round(share * len(grid)), replace=False)
    scores = simulation_scores(activations, simulated, Pairs(*chosen.T))
    columns = [(activations[:, u].double(), simulated[:, t].double()) for u, t in chosen]
    expected = {
        "simulation": [pearsonr(a, s).statistic for a, s in columns[:300]],
        "simulation_spearman": [spearmanr(a, s).statistic for a, s in columns[:300]],
    }
    for name, values in expected.items():
        assert scores[name][:300] == pytest.approx(values, abs=2e-6), name


def test_constants_are_undefined_and_repeated_pairs_equal(backend: str) -> None:
    activations = torch.tensor([[0.1, 1.0], [0.1, 2.0], [0.1, 4.0]])
    simulated = torch.tensor([[0.3, 0.7], [0.2, 0.7], [0.1, 0.7]])
    scores = simulation_scores(activations, simulated, pairs((0, 0), (1, 1), (1, 0), (1, 0)))
    assert np.isnan(scores["simulation"][:2]).all()
    assert np.isnan(scores["simulation_spearman"][:2]).all()
    assert scores["simulation"][2:] == pytest.approx(2 * [-0.98198051], abs=1e-6)
    assert scores["simulation_spearman"][2:] == pytest.approx([-1, -1])


def test_affine_maps_and_no_pairs() -> None:
    activations, simulated = torch.rand(50, 3), torch.rand(50, 4)
    chosen = pairs((0, 3), (2, 1))
    first = simulation_scores(activations, simulated, chosen)
    second = simulation_scores(7 * activations - 2, -3 * simulated, chosen)
    assert second["simulation"] == pytest.approx(-first["simulation"], abs=1e-5)
    assert all(
        len(values) == 0 for values in simulation_scores(*2 * [activations], pairs()).values()
    )


def test_wrong_inputs() -> None:
    activations, simulated = torch.rand(5, 2), torch.rand(5, 3)
    with pytest.raises(DissectError, match=r"holds 5 images, .* holds 4"):
        simulation_scores(activations, simulated[:4], pairs((0, 0)))
    with pytest.raises(DissectError, match="a pair has text 3, but there are 3 texts"):
        simulation_scores(activations, simulated, pairs((0, 0), (0, 3)))
    with pytest.raises(DissectError, match="a pair has unit -1"):
        simulation_scores(activations, simulated, pairs((-1, 0)))
    with pytest.raises(DissectError, match="NaN or infinite"):
        simulation_scores(activations / 0, simulated, pairs((0, 0)))


def test_kernels_equal_their_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIPDISSECT_KERNELS", raising=False)
    rows = np.random.default_rng(0).integers(-3, 3, (20, 100)).astype(np.float32)
    rows[0], rows[1, :50] = 1.5, -0.0  # a constant; the two zeros are equal
    ranks = kernels.average_ranks(rows)
    assert ranks[0].tolist() == [49.5] * 100
    assert (ranks == plain.average_ranks(rows)).all()
    assert kernels.unit_rows(rows) == pytest.approx(plain.unit_rows(rows), abs=1e-6, nan_ok=True)
    i, j = np.random.default_rng(1).integers(0, 20, (2, 70))
    expected = plain.pair_products(rows, rows, i, j)
    assert kernels.pair_products(rows, rows, i, j) == pytest.approx(expected)


def test_a_calibration_by_hand() -> None:
    calibration = Calibration(10.0, -0.2, "by hand")
    cosines = torch.tensor([[0.2, 0.3]])
    assert calibration.simulate(cosines)[0].tolist() == pytest.approx([0.5, 0.7310586])
    assert simulate(cosines, None) is cosines
    assert simulate(cosines, calibration)[0, 0] == pytest.approx(0.5)


def test_published_constants() -> None:
    model, tag, _ = PRESETS["clip_vit_l14_336"]
    name = f"{model}/{tag}"
    assert (PUBLISHED[name].scale, PUBLISHED[name].bias) == (58, -0.25)
    plain_texts = PromptEncoder(PlaneEncoder(name=name))
    assert published_calibration(plain_texts) == PUBLISHED[name]
    assert published_calibration(replace(plain_texts, templates=("a {}",))) is None
    assert published_calibration(ColourEncoder()) is None


def slow_fit(cosines: Tensor, truth: Tensor) -> tuple[float, float, float]:
    losses = {
        (a, b): float(F.binary_cross_entropy_with_logits(a * (cosines + b), truth.double()))
        for a in SCALES
        for b in BIASES[60:100]
    }
    scale, bias = min(losses, key=lambda key: losses[key])
    return scale, bias, losses[scale, bias]


def test_a_fit_equals_the_whole_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    cosines = 0.15 + 0.08 * torch.randn(50, 8, generator=generator).double()
    shown = torch.sigmoid(40 * (cosines - 0.24))
    truth = torch.rand(50, 8, generator=generator).double() < shown
    scale, bias, loss = slow_fit(cosines, truth)
    found = fit_calibration(cosines, truth, "shapes")
    assert (found.scale, found.bias) == (scale, bias)
    expected = f"fitted on shapes: 50 images and 8 texts, binary cross-entropy {loss:.4f}"
    assert found.source == expected


def test_a_fit_finds_the_constants_that_drew_the_labels() -> None:
    generator = torch.Generator().manual_seed(1)
    cosines = 0.1 + 0.1 * torch.randn(4000, 100, generator=generator)
    truth = torch.rand(4000, 100, generator=generator) < torch.sigmoid(30 * (cosines - 0.2))
    found = fit_calibration(cosines, truth, "draws")
    assert (found.scale, found.bias) == (30, -0.2)


def test_a_fit_of_equal_cosines_is_their_share() -> None:
    truth = torch.tensor([[True, False], [False, False]])
    found = fit_calibration(torch.full((2, 2), 0.5), truth, "equals")
    assert float(found.simulate(torch.tensor([[0.5]]))) == pytest.approx(0.25, abs=0.005)


def test_a_fit_needs_both_kinds() -> None:
    cosines = torch.rand(4, 2)
    for truth in (torch.zeros(4, 2), torch.ones(4, 2)):
        with pytest.raises(DissectError, match=r"[08] of 8 pairs"):
            fit_calibration(cosines, truth.bool(), "one kind")
    with pytest.raises(DissectError, match=r"\(4, 2\), their truth \(4, 1\)"):
        fit_calibration(cosines, torch.ones(4, 1).bool(), "shapes")


class Classifying(PlaneEncoder):
    """An encoder whose embeddings of images depend on a network and on its texts, as ConSE's."""

    def __init__(self, network: nn.Module, version: str) -> None:
        super().__init__(name=f"classifier {version}", version=version)
        self.image_network = network


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def test_an_encoder_may_not_score_its_own_labels() -> None:
    labels, same = ColourEncoder(), ColourEncoder(name="again")
    with pytest.raises(DissectError, match=r"scorer again .*scorer\.same_encoder=true"):
        check_encoders(labels, same)
    (note,) = check_encoders(labels, PromptEncoder(PlaneEncoder(version="1")), allow_same=True)
    assert "too high" in note
    assert check_encoders(labels, ColourEncoder(version="2")) == ()


def test_a_shared_network_with_other_texts_is_noticed() -> None:
    labels = Classifying(network(0), "minilm")
    with pytest.raises(DissectError, match="scorer classifier mpnet has the network of images"):
        check_encoders(labels, Classifying(network(0), "mpnet"))
    remembered = SimpleNamespace(
        built=PromptEncoder(Classifying(network(0), "mpnet")),
        facts={
            "name": "remembered",
            "image_digest": "an image digest",
            "text_digest": "a text digest",
            "templates": [],
            "long_texts": "report",
        },
    )
    with pytest.raises(DissectError, match="scorer remembered"):
        check_encoders(labels, lazy(remembered))  # type: ignore[arg-type]
    assert check_encoders(labels, Classifying(network(1), "mpnet")) == ()


def test_shared_texts_are_noted_whatever_the_templates() -> None:
    class SharedTexts(Classifying):
        @property
        def text_digest(self) -> str:
            return "minilm"

    labels = SharedTexts(network(0), "lite2")
    scorer = PromptEncoder(SharedTexts(network(1), "lite1"), ("a photo of a {}",))
    (note,) = check_encoders(labels, scorer)
    assert "shares its text network" in note
