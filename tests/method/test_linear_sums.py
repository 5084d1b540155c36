"""Moments, elastic nets and greedy sums against slow, obvious references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.linalg import lstsq
from torch import Tensor

from clipdissect.method.linear_sums import elastic_net as nets
from clipdissect.method.linear_sums.elastic_net import Penalty, candidates, elastic_net
from clipdissect.method.linear_sums.fit import FittedSums, SumFitter
from clipdissect.method.linear_sums.greedy import NONE, Search
from clipdissect.method.linear_sums.moments import (
    ConceptMoments,
    UnitMoments,
    best_correlations,
    usable,
)

PENALTY, SEARCH = Penalty(0.05, 0.99), Search(10, 10, 0.02)
TRAIN, VALIDATION = torch.arange(0, 300), torch.arange(300, 400)


@pytest.fixture(params=["numba", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setenv("CLIPDISSECT_KERNELS", "torch")
    else:
        monkeypatch.delenv("CLIPDISSECT_KERNELS", raising=False)


def labels(concepts: int = 30, share: float = 0.2) -> Tensor:
    """Correlated labels: the last third are unions of others."""
    drawn = torch.Generator().manual_seed(0)
    single = torch.rand(400, concepts - concepts // 3, generator=drawn) < share
    unions = single[:, : concepts // 3] | single[:, -(concepts // 3) :]
    return torch.cat([single, unions], 1).float()


def noisy_units(values: Tensor, units: int = 20) -> Tensor:
    drawn = torch.Generator().manual_seed(1)
    weights = torch.randn(values.shape[1], units, generator=drawn).relu()
    return values @ weights + torch.randn(len(values), units, generator=drawn)


def standardised(values: Tensor) -> np.ndarray:
    columns = values[TRAIN].double().numpy()
    return np.asarray((columns - columns.mean(0)) / columns.std(0))


def test_elastic_nets_are_scikit_learns(backend: None) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    values = labels()
    activations = noisy_units(values)
    concepts = ConceptMoments.of(values, TRAIN)
    units = UnitMoments.of(concepts, activations)
    for lam, alpha in ((0.05, 0.99), (0.3, 0.5)):
        solved = elastic_net(concepts.gram, units.cross, Penalty(lam, alpha), 1e-9)
        assert float(solved.violation.max()) < 1e-8
        for unit in range(activations.shape[1]):
            net = linear_model.ElasticNet(alpha=lam, l1_ratio=alpha, tol=1e-10, max_iter=10**5)
            net.fit(standardised(values), standardised(activations)[:, unit])
            assert solved.weights[:, unit].numpy() == pytest.approx(net.coef_, abs=1e-5)


def test_a_net_by_hand(backend: None) -> None:
    # Uncorrelated concepts: soft thresholds, over 1 + lam * (1 - alpha).
    cross = torch.tensor([[0.5], [-0.3], [0.05]], dtype=torch.float64)
    solved = elastic_net(torch.eye(3, dtype=torch.float64), cross, Penalty(0.2, 0.5))
    assert solved.weights[:, 0].tolist() == pytest.approx([0.4 / 1.1, -0.2 / 1.1, 0.0])
    assert float(solved.violation) == pytest.approx(0.0, abs=1e-12)
    order = candidates(torch.eye(3).double(), cross, solved.weights, Penalty(0.2, 0.5), 3)
    assert order.tolist() == [[0, 2, 1]]  # positive, zero, negative


def test_nets_that_stop_early_say_so(backend: None) -> None:
    values = labels()
    concepts = ConceptMoments.of(values, TRAIN)
    units = UnitMoments.of(concepts, noisy_units(values))
    solved = elastic_net(concepts.gram, units.cross, PENALTY, sweeps=1)
    assert float(solved.violation.max()) > nets.TOLERANCE


def test_moments_are_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipdissect.method.linear_sums.moments._ROWS", 7)
    values, order = labels(), torch.randperm(400, generator=torch.Generator().manual_seed(2))
    activations = 1e4 + noisy_units(values, 5)
    activations[:, 3] = 2.5
    concepts = ConceptMoments.of(values, TRAIN)
    units = UnitMoments.of(concepts, activations, order)
    c, a = values[TRAIN].double().numpy(), activations[order[TRAIN]].double().numpy()
    both = np.corrcoef(c.T, np.delete(a, 3, 1).T)
    assert concepts.gram.numpy() == pytest.approx(both[:30, :30], abs=1e-12)
    live = [0, 1, 2, 4]
    assert units.cross[:, live].numpy() == pytest.approx(both[:30, 30:], abs=1e-9)
    assert units.constant.tolist() == [False, False, False, True, False]
    assert units.cross[:, 3].tolist() == [0.0] * 30
    assert units.mean.numpy() == pytest.approx(a.mean(0))
    assert units.std[live].numpy() == pytest.approx(a.std(0)[live])
    best = best_correlations(values, activations[order], TRAIN)
    assert best.numpy() == pytest.approx(both[:30, 30:].max(1).clip(0), abs=1e-4)


def test_usable_concepts() -> None:
    values = torch.zeros(40, 5)
    values[:3, 0] = 1  # 3 of the 5 largest are 1
    values[:2, 1] = 1
    values[:, 2] = 0.9  # always shown
    values[:5, 3] = 0.51
    values[30:, 4] = 1  # not on these rows
    assert usable(values, torch.arange(30)).tolist() == [True, False, False, True, False]


def slow_sum(values: np.ndarray, unit: np.ndarray, order: list[int]) -> tuple[list[int], list]:
    """Return the concepts, and weights and bias and correlation, of one unit."""
    chosen: list[int] = []
    dropped: set[int] = set()
    best, kept = 0.0, []
    while len(chosen) < SEARCH.length:
        found = {}
        for n in [n for n in order if n not in dropped and n not in chosen][: SEARCH.width]:
            columns = np.hstack([values[:, [*chosen, n]], np.ones((400, 1))])
            weights = lstsq(columns[TRAIN], unit[TRAIN], rcond=None)[0]
            correlation = np.corrcoef(columns[VALIDATION] @ weights, unit[VALIDATION])[0, 1]
            if chosen and correlation - best < SEARCH.tolerance:
                dropped.add(n)
            else:
                found[n] = (correlation, weights)
        if not found:
            break
        chosen.append(max(found, key=lambda n: found[n][0]))
        best = found[chosen[-1]][0]
        kept = [*found[chosen[-1]][1], best]
    return chosen, kept


@pytest.mark.parametrize("block", [3, 1000])
def test_greedy_sums_are_those_of_single_units(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipdissect.method.linear_sums.greedy._UNITS", block)
    values = labels()
    activations = 5 + noisy_units(values)
    fitter = SumFitter(values, TRAIN, VALIDATION, PENALTY, SEARCH)
    fitted = fitter.fit(activations)
    cross = UnitMoments.of(fitter.train, activations).cross
    solved = elastic_net(fitter.train.gram, cross, PENALTY)
    order = candidates(fitter.train.gram, cross, solved.weights, PENALTY, 100)
    lengths = set()
    for unit in range(activations.shape[1]):
        ranked = order[unit].tolist()
        chosen, numbers = slow_sum(
            values.double().numpy(), activations[:, unit].double().numpy(), ranked
        )
        size = len(chosen)
        lengths.add(size)
        assert fitted.concepts[unit].tolist() == chosen + [NONE] * (10 - size)
        assert fitted.weights[unit, :size].numpy() == pytest.approx(numbers[:size], abs=1e-6)
        assert float(fitted.bias[unit]) == pytest.approx(numbers[size], abs=1e-6)
        assert float(fitted.correlation[unit]) == pytest.approx(numbers[-1], abs=1e-8)
    assert len(lengths) > 1  # units stop at different steps


def planted(noise: float, others: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return labels, units, and the three concepts of each unit, of independent labels."""
    drawn = torch.Generator().manual_seed(3)
    values = (torch.rand(400, 30 + others, generator=drawn) < 0.3).float()
    truth = torch.stack([torch.randperm(30, generator=drawn)[:3] for _ in range(25)])
    units = values[:, truth] @ torch.tensor([2.0, 1.5, 1.0])
    return values, units - 1 + noise * torch.randn(units.shape, generator=drawn), truth


def found(fitted: FittedSums) -> list[set[int]]:
    return [{n for n in row if n != NONE} for row in fitted.concepts.tolist()]


def test_planted_sums_are_recovered_exactly() -> None:
    values, units, truth = planted(0.0)
    fitted = SumFitter(values, TRAIN, VALIDATION, PENALTY, SEARCH).fit(units)
    assert found(fitted) == [set(row) for row in truth.tolist()]
    expected = torch.tensor([2.0, 1.5, 1.0]).double().expand(25, 3)
    weights = fitted.weights[:, :3].sort(1, descending=True).values
    torch.testing.assert_close(weights, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(fitted.bias, -torch.ones(25).double(), atol=1e-5, rtol=0)
    assert float(fitted.correlation.min()) == pytest.approx(1.0, abs=1e-9)
    assert float(fitted.first.max()) < 0.95


def test_noise_and_shuffled_images() -> None:
    values, units, truth = planted(0.5)
    fitter = SumFitter(values, TRAIN, VALIDATION, PENALTY, SEARCH)
    fitted = fitter.fit(units)
    hits = (fitted.concepts[:, :, None] == truth[:, None]).any(1)
    assert float(hits.double().mean()) > 0.85
    order = torch.randperm(400, generator=torch.Generator().manual_seed(4))
    shuffled = fitter.fit(units, order)
    torch.testing.assert_close(shuffled.correlation, fitter.fit(units[order]).correlation)
    assert float(shuffled.correlation.mean()) < 0.4 < 0.8 < float(fitted.correlation.mean())


def test_scale_and_order_of_units_do_not_matter() -> None:
    values, units, _ = planted(0.5)
    fitter = SumFitter(values, TRAIN, VALIDATION, PENALTY, SEARCH)
    first, second = fitter.fit(units), fitter.fit(100 * units.flip(1) + 7)
    assert (first.concepts == second.concepts.flip(0)).all()
    torch.testing.assert_close(100 * first.weights, second.weights.flip(0), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(first.correlation, second.correlation.flip(0), atol=1e-5, rtol=0)


def test_constant_units_and_repeated_concepts() -> None:
    values, units, truth = planted(0.0)
    units[:, 0] = 1.5
    units[TRAIN, 1] = 1.5  # varies on the validation images alone
    units[VALIDATION, 2] = 1.5
    both = torch.cat([values, values], 1)  # each concept twice
    fitted = SumFitter(both, TRAIN, VALIDATION, PENALTY, SEARCH).fit(units)
    assert fitted.described.tolist() == [False, False, *[True] * 23]
    assert fitted.correlation.isnan().tolist() == [True] * 3 + [False] * 22
    once = [{n % 30 for n in row} for row in found(fitted)]
    assert once[3:] == [set(row) for row in truth[3:].tolist()]
    assert [len(row) for row in found(fitted)[3:]] == [3] * 22
    assert fitted.weights.isfinite().all()
    assert fitted.weights[:2].eq(0).all()
    assert fitted.bias[:2].tolist() == [1.5, 1.5]


def test_a_single_concept_and_short_sums() -> None:
    values, units, truth = planted(0.0)
    one = SumFitter(values[:, :1], TRAIN, VALIDATION, PENALTY, SEARCH).fit(units)
    assert one.concepts.tolist() == [[0] + [NONE] * 9] * 25
    two = SumFitter(values, TRAIN, VALIDATION, PENALTY, Search(2, 3, 0.0)).fit(units)
    assert two.concepts.shape == (25, 2)
    assert (two.concepts[:, 0] == truth[:, 0]).all()  # of the largest weight
