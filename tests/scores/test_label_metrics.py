"""Metrics of units and labels, against scipy and scikit-learn pair by pair."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn import metrics as sk

from clipdissect.errors import DissectError
from clipdissect.scores import kernels
from clipdissect.scores.base import Pairs
from clipdissect.scores.label_metrics import METRICS, label_metrics, pair_metrics
from clipdissect.scores.statistics import ConceptColumns, RankedColumns, sampled_positions

IMAGES, UNITS, ALPHA, LAM = 90, 5, 0.1, 0.7


def activations(seed: int = 0) -> torch.Tensor:
    """Distinct values, many ties, values after a ReLU, a negative unit, and a large offset."""
    rng = np.random.default_rng(seed)
    q = rng.normal(size=(IMAGES, UNITS))
    q[:, 1] = np.round(q[:, 1])
    q[:, 2] = np.maximum(q[:, 2], 0)
    q[:, 3] -= 5
    q[:, 4] += 100
    return torch.from_numpy(q).float()


def binary(seed: int = 1) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.random((IMAGES, 4)) < [0.05, 0.3, 0.5, 0.9])


def soft(seed: int = 2) -> torch.Tensor:
    """Probabilities, a column with ties, one with zeros and ones among others."""
    c = np.random.default_rng(seed).random((IMAGES, 4))
    c[:, 1] = np.round(c[:, 1], 1)
    c[:, 2] = np.clip(2 * c[:, 2] - 0.5, 0, 1)
    c[:, 3] **= 4
    return torch.from_numpy(c).float()


Reference = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], float]


def harmonic(first: str, second: str) -> Reference:
    def mean(a: np.ndarray, c: np.ndarray, A: np.ndarray, C: np.ndarray) -> float:
        x, y = REFERENCES[first](a, c, A, C), REFERENCES[second](a, c, A, C)
        return 0.0 if x + y == 0 else 2 * x * y / (x + y)

    return mean


def random_ties(a: np.ndarray, c: np.ndarray) -> float:
    """The mean over orders of ties, by many of them."""
    rng = np.random.default_rng(0)

    def ranks(x: np.ndarray) -> np.ndarray:
        return np.lexsort((rng.random(len(x)), x)).argsort()

    return float(np.mean([pearsonr(ranks(a), ranks(c))[0] for _ in range(400)]))


REFERENCES: dict[str, Reference] = {
    # The unit's active images are the truth that the concept is scored on in scikit-learn's words:
    # the published recall is its recall.
    "recall": lambda a, c, A, C: sk.recall_score(A, C),
    "precision": lambda a, c, A, C: sk.precision_score(A, C),
    "f1": lambda a, c, A, C: sk.f1_score(A, C),
    "iou": lambda a, c, A, C: sk.jaccard_score(A, C),
    "accuracy": lambda a, c, A, C: sk.accuracy_score(A, C),
    "balanced_accuracy": lambda a, c, A, C: sk.balanced_accuracy_score(A, C),
    "inverse_balanced_accuracy": lambda a, c, A, C: sk.balanced_accuracy_score(C, A),
    "auc": lambda a, c, A, C: sk.roc_auc_score(A, c),
    "inverse_auc": lambda a, c, A, C: sk.roc_auc_score(C, a),
    "correlation": lambda a, c, A, C: pearsonr(a, c)[0],
    "spearman": lambda a, c, A, C: spearmanr(a, c)[0],
    "cosine": lambda a, c, A, C: a @ c / math.sqrt((a @ a) * (c @ c)),
    "wpmi": lambda a, c, A, C: np.log(np.maximum(c, 1e-8))[A].mean() - LAM * math.log(c.mean()),
    "mad": lambda a, c, A, C: a[C].mean() - a[~C].mean(),
    "auprc": lambda a, c, A, C: sk.average_precision_score(A, c),
    "inverse_auprc": lambda a, c, A, C: sk.average_precision_score(C, a),
    "combined_auc": harmonic("auc", "inverse_auc"),
    "combined_balanced_accuracy": harmonic("balanced_accuracy", "inverse_balanced_accuracy"),
    "recall_auc": harmonic("recall", "auc"),
    "recall_inverse_auc": harmonic("recall", "inverse_auc"),
    "precision_balanced_accuracy": harmonic("precision", "balanced_accuracy"),
    "precision_inverse_balanced_accuracy": harmonic("precision", "inverse_balanced_accuracy"),
}


@pytest.mark.parametrize("concepts", [binary(), soft()], ids=["binary", "soft"])
def test_metrics_are_those_of_scipy_and_scikit_learn(concepts: torch.Tensor) -> None:
    q = activations()
    computed = label_metrics(q, concepts, alpha=ALPHA, lam=LAM)
    assert set(computed) == set(METRICS)
    for unit in range(UNITS):
        a = q[:, unit].numpy().astype(float)
        A = a >= np.sort(a)[-9]  # ceil(0.1 * 90) images
        for column in range(concepts.shape[1]):
            c = concepts[:, column].numpy().astype(float)
            for name, reference in REFERENCES.items():
                expected = reference(a, c, A, c >= 0.5)
                value = float(computed[name][unit, column])
                assert value == pytest.approx(expected, abs=2e-6), (name, unit, column)


@pytest.mark.parametrize("concepts", [binary(), soft()], ids=["binary", "soft"])
def test_spearman_of_random_ties_is_a_mean_over_orders(concepts: torch.Tensor) -> None:
    q = activations()[:, 1:3]
    computed = label_metrics(q, concepts, ["spearman_random_ties"])["spearman_random_ties"]
    for unit, column in ((0, 0), (1, 1)):
        expected = random_ties(q[:, unit].numpy(), concepts[:, column].float().numpy())
        assert float(computed[unit, column]) == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("concepts", [binary(), soft()], ids=["binary", "soft"])
def test_top_and_random_images(concepts: torch.Tensor) -> None:
    q = activations()
    names = ["correlation_top_random", "spearman_top_random"]
    computed = label_metrics(q, concepts, names, seed=3)
    positions = sampled_positions(IMAGES, UNITS, seed=3)
    for unit in range(UNITS):
        a = q[:, unit].numpy().astype(float)
        images = np.argsort(-a, kind="stable")[positions[unit]]
        for column in range(concepts.shape[1]):
            c = concepts[:, column].float().numpy()
            pair = a[images], c[images]
            expected = (pearsonr(*pair)[0], spearmanr(*pair)[0])
            values = [float(computed[name][unit, column]) for name in names]
            assert values == pytest.approx(expected, abs=2e-6)


def test_positions_are_25_top_and_25_other_images() -> None:
    positions = sampled_positions(100_000, 3, seed=0)
    assert positions.shape == (3, 50)
    assert all(len(set(row)) == 50 for row in positions.tolist())
    assert ((positions[:, :25] < 200) & (positions[:, 25:] >= 200)).all()
    assert not (positions[0] == positions[1]).all()
    assert sorted(sampled_positions(30, 1, seed=0)[0].tolist()) == list(range(30))


def test_metrics_of_ten_images_by_hand() -> None:
    # Active: images 0 and 1; with the concept: 1, 2 and 3.
    a = torch.tensor([[9.0, 8, 7, 6, 5, 4, 3, 2, 1, 0]]).T
    c = torch.tensor([[0, 1, 1, 1, 0, 0, 0, 0, 0, 0]]).T
    computed = label_metrics(a, c, alpha=0.2)
    expected = {
        "recall": 1 / 2,
        "precision": 1 / 3,
        "f1": 2 / 5,
        "iou": 1 / 4,
        "accuracy": 7 / 10,
        "balanced_accuracy": (1 / 2 + 6 / 8) / 2,
        "auc": 0.625,
        "inverse_auc": 18 / 21,
        "mad": 7 - 24 / 7,
        "wpmi": math.log(1e-8) / 2 - math.log(0.3),
        "auprc": 1 / 2 * 1 / 3 + 1 / 2 * 2 / 10,
        "inverse_auprc": (1 / 2 + 2 / 3 + 3 / 4) / 3,
        "cosine": 21 / math.sqrt(285 * 3),
    }
    assert {n: float(computed[n]) for n in expected} == pytest.approx(expected, abs=1e-6)


def test_the_fast_path_is_the_general_one_on_zeros_and_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, c = activations(), binary()
    fast = label_metrics(q, c, lam=LAM)

    def never_binary(concepts: torch.Tensor) -> ConceptColumns:
        return ConceptColumns(concepts >= 0.5, RankedColumns.of(concepts.float(), 1.0))

    monkeypatch.setattr(ConceptColumns, "of", never_binary)
    general = label_metrics(q, c, lam=LAM)
    for name, values in fast.items():
        torch.testing.assert_close(values, general[name], atol=2e-6, rtol=0, msg=name)


def test_compiled_sums_are_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    if kernels.COMPILED.module() is None:
        pytest.skip("Numba doesn't work here")
    ranked = RankedColumns.of(activations(), ALPHA)
    arguments = ranked.order, ranked.values, ranked.active, kernels.Entries.of(binary())
    compiled = kernels.ranked_sums(*arguments)
    monkeypatch.setenv("CLIPDISSECT_KERNELS", "torch")
    for field, values in kernels.ranked_sums(*arguments)._asdict().items():
        torch.testing.assert_close(getattr(compiled, field), values, atol=1e-9, rtol=1e-12)
        assert values.abs().sum() > 0


def test_blocks_of_units_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    q, c = activations(), soft()
    whole = label_metrics(q, c)
    monkeypatch.setattr("clipdissect.scores.label_metrics._NUMBERS_AT_ONCE", 2 * IMAGES)
    for name, values in label_metrics(q, c).items():
        assert torch.equal(values, whole[name]), name


@pytest.mark.parametrize("concepts", [binary(), soft()], ids=["binary", "soft"])
def test_the_order_of_images_doesnt_matter(concepts: torch.Tensor) -> None:
    q = activations()[:, [0, 3, 4]]  # without ties: those are drawn by image number
    order = torch.from_numpy(np.random.default_rng(0).permutation(IMAGES))
    shuffled = label_metrics(q[order], concepts[order])
    for name, values in label_metrics(q, concepts).items():
        torch.testing.assert_close(shuffled[name], values, atol=1e-5, rtol=0, msg=name)


def test_no_pair_is_better_than_a_perfect_one() -> None:
    c = binary()
    q = c[:, 1].float()[:, None]
    random = torch.from_numpy(np.random.default_rng(0).random((IMAGES, 50)) < 0.3)
    computed = label_metrics(q, torch.cat([c[:, 1:2], random, ~c[:, 1:2]], dim=1), alpha=0.01)
    for name, metric in METRICS.items():
        values = computed[name][0]
        assert values.nan_to_num(-torch.inf).argmax() == 0, name
        if metric.bounds and name != "spearman_random_ties":
            assert float(values[0]) == pytest.approx(metric.bounds[1], abs=1e-6), name
        if metric.bounds:
            assert float(values[-1]) < float(values[0]) - 0.2, name


def test_undefined_values_are_nan() -> None:
    q = torch.cat([activations()[:, :1], torch.full((IMAGES, 1), 0.1)], dim=1)
    c = torch.zeros(IMAGES, 2)
    c[:, 1] = 1
    computed = label_metrics(q, c, alpha=0.1)
    for name in ("correlation", "spearman", "correlation_top_random", "spearman_top_random"):
        assert computed[name].isnan().all(), name
    for name in ("precision", "cosine", "wpmi", "inverse_auprc"):
        assert computed[name].isnan().tolist() == [[True, False]] * 2, name
    for name in ("mad", "inverse_auc", "inverse_balanced_accuracy"):
        assert computed[name].isnan().all(), name
    assert computed["auc"].tolist()[0] == pytest.approx([0.5, 0.5])
    assert computed["auc"][1].isnan().all()  # all images are as active as the top ones
    assert computed["iou"].tolist() == [[0.0, pytest.approx(0.1)], [0.0, 1.0]]


def test_pairs_are_entries_of_the_matrix() -> None:
    q, c = activations(), binary()
    units, texts = np.array([4, 0, 0, 4]), np.array([3, 1, 3, 3])
    whole = label_metrics(q, c, ["iou", "correlation"], alpha=ALPHA)
    computed = pair_metrics(q, c, Pairs(units, texts), ["iou", "correlation"], ALPHA)
    assert set(computed) == {"iou", "correlation"}
    for name, values in computed.items():
        expected = whole[name][units.tolist(), texts.tolist()].tolist()
        assert values.tolist() == pytest.approx(expected, abs=1e-7)
        assert values.dtype == np.float64
    nothing = np.zeros(0, dtype=int)
    assert {k: len(v) for k, v in pair_metrics(q, c, Pairs(nothing, nothing)).items()} == (
        dict.fromkeys(METRICS, 0)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["ioo"]}, "unknown metric 'ioo'. Did you mean iou"),
        ({"alpha": 0.0}, "alpha=0.0: must be"),
        ({"alpha": 1.5}, "alpha=1.5: must be"),
        ({"concepts": torch.full((IMAGES, 1), 1.5)}, "between 1.5 and 1.5; they must be"),
        ({"concepts": torch.zeros(3, 1)}, f"activations holds {IMAGES} images, concepts holds 3"),
        ({"concepts": torch.zeros(IMAGES, 0)}, "concepts has shape"),
        ({"activations": torch.full((IMAGES, 1), torch.nan)}, "NaN or infinite"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(DissectError, match=message):
        label_metrics(**{"activations": activations(), "concepts": binary(), **change})  # type: ignore[arg-type]
