"""The missing-label and extra-label checks, against published and closed values."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from clipdissect import similarity
from clipdissect.errors import DissectError
from clipdissect.probe.image_labels import ImageLabels
from clipdissect.scores import checks
from clipdissect.scores.checks import (
    GAMMAS,
    NAMES,
    Layer,
    Setting,
    correct_pairs_auprc,
    experimental,
    extra_labels,
    ideal_units,
    layer_by_iou,
    layer_of_classes,
    missing_labels,
    scores,
    split_units,
    suited,
    summary,
    theoretical,
    tuned,
)
from clipdissect.scores.label_metrics import METRICS, label_metrics

# Published mean drops of ideal units at gamma 0.1, of 500,000 images and 1000 seeds.
PUBLISHED = {
    "recall": (-0.5, 0.0),
    "precision": (0.0, -0.5),
    "f1": (-0.3333, -0.3333),
    "iou": (-0.5001, -0.5),
    "accuracy": (-0.05, -0.1),
    "balanced_accuracy": (-0.25, -0.0556),
    "inverse_balanced_accuracy": (-0.0263, -0.25),
    "inverse_auc": (-0.0263, -0.25),
    "correlation": (-0.1559, -0.1667),
    "cosine": (-0.1464, -0.1464),
    "wpmi": (-0.3675, -0.0299),
    "mad": (-0.0526, -0.5),
    "auprc": (-0.45, -0.5),
    "inverse_auprc": (-0.5, -0.4),
    "combined_auc": (-0.1527, None),
    "combined_balanced_accuracy": (-0.1527, -0.1639),
    "recall_auc": (-0.3999, None),
    "recall_inverse_auc": (-0.3393, -0.1428),
    "precision_balanced_accuracy": (-0.1428, -0.3462),
    "precision_inverse_balanced_accuracy": (-0.0133, -0.4),
}


@pytest.fixture(scope="module")
def ideal() -> pd.DataFrame:
    """All label metrics on ideal units, of fewer draws than published."""
    return theoretical(list(METRICS), images=100_000, seeds=10)


def drops(table: pd.DataFrame, metric: str, gamma: float) -> tuple[float, float]:
    [row] = table[(table["metric"] == metric) & (table["gamma"] == gamma)].to_dict("records")
    return row["missing"], row["extra"]


@pytest.mark.parametrize("metric", PUBLISHED)
def test_mean_drops_are_the_published_ones(ideal: pd.DataFrame, metric: str) -> None:
    for value, expected in zip(drops(ideal, metric, 0.1), PUBLISHED[metric], strict=True):
        assert expected is None or value == pytest.approx(expected, abs=1.5e-3)


def test_ties_without_noise_change_auc_and_spearman(ideal: pd.DataFrame) -> None:
    # Published: AUC -0.25 and -0.0844, Spearman -0.0676 and -0.0228. Ties there are broken by noise
    # of up to 1e-7 in float32, in which 1 + noise has two values (60 % and 40 %), so that 52 % of
    # ties between ones stay: broken by position, against the unit, whose images come first.
    missing, extra = drops(ideal, "auc", 0.1)
    assert missing == pytest.approx(-0.25, abs=1e-3)
    assert extra == pytest.approx(-0.1 / 0.9 / 2, abs=1e-3)
    of_noise = -0.1 / 0.9 * (0.48 / 2 + 0.52)
    assert of_noise == pytest.approx(-0.0844, abs=1e-4)
    missing, extra = drops(ideal, "spearman_random_ties", 0.1)
    # 3 gamma (1 - gamma), less 3 gamma / 2 (1 - gamma) and 3 gamma (1 - 2 gamma); of a range of 2.
    assert missing == pytest.approx(-3 * 0.05 * 0.9 / 2, abs=1e-3)
    assert extra == pytest.approx(-3 * 0.1 * 0.1 / 2, abs=1e-3)
    assert missing == pytest.approx(-0.0676, abs=1e-3)
    # With mean ranks it is Pearson's correlation of binary columns.
    assert drops(ideal, "spearman", 0.1) == pytest.approx(drops(ideal, "correlation", 0.1))


def test_verdicts_are_the_published_ones(ideal: pd.DataFrame) -> None:
    passing = ideal.groupby("metric")["passes"].all()
    combined = {"combined_auc", "combined_balanced_accuracy", "recall_inverse_auc"}
    combined |= {"precision_balanced_accuracy"}
    # The published Spearman correlation, of random ties, fails; WPMI passes without real units.
    assert set(passing[passing].index) == {
        *("correlation", "cosine", "auprc", "f1", "iou", "wpmi", "spearman"),
        *combined,
    }
    rare = ideal[ideal["gamma"] == 0.001].set_index("metric")["passes"]
    names = ("accuracy", "auc", "inverse_auc", "mad", "balanced_accuracy", "recall", "precision")
    assert not rare[[*names, "inverse_balanced_accuracy", "spearman_random_ties"]].any()
    often = ideal[ideal["gamma"] == 0.499].set_index("metric")
    # Inverse AUPRC misses only the extra labels of frequent concepts: -0.0010 published.
    assert often["extra"]["inverse_auprc"] == pytest.approx(-0.001, abs=3e-4)


def test_similarity_functions_are_metrics_too() -> None:
    names = [f"similarity.{name}" for name in ("cosine", "soft_wpmi", "lp")]
    table = theoretical([*names, "cosine"], gammas=[0.3, 0.1], images=20_000, seeds=2)
    for gamma in (0.3, 0.1):
        expected = drops(table, "cosine", gamma)
        assert drops(table, "similarity.cosine", gamma) == pytest.approx(expected, abs=0.01)
        # SoftWPMI divides by the mean over the layer's units: a unit's own concept stands out among
        # few units by log(units) at most, with half of its labels, too.
        assert drops(table, "similarity.soft_wpmi", gamma) == pytest.approx((0, 0), abs=1e-3)
        assert all(drop < -0.1 for drop in drops(table, "similarity.lp", gamma))


def test_half_of_the_labels_go_and_as_many_come() -> None:
    c = torch.zeros(100_000, 2, dtype=torch.bool)
    c[:20_000, 0] = c[:1000, 1] = True
    generator = torch.Generator().manual_seed(0)
    missing, extra = missing_labels(c, generator), extra_labels(c, generator)
    assert not (missing & ~c).any() and not (c & ~extra).any()
    counts = torch.tensor([20_000.0, 1000])
    torch.testing.assert_close(missing.sum(0) / counts, torch.full((2,), 0.5), atol=0.05, rtol=0)
    torch.testing.assert_close(extra.sum(0) / counts, torch.full((2,), 2.0), atol=0.1, rtol=0)


def test_labels_between_0_and_1_stay_between() -> None:
    c = torch.linspace(0, 1, 1000)[:, None]
    generator = torch.Generator().manual_seed(0)
    missing, extra = missing_labels(c, generator), extra_labels(c, generator)
    assert set((missing / c).nan_to_num(0).flatten().tolist()) == {0.0, 1.0}
    assert (extra >= c).all() and extra.max() == 1.0


def test_drops_are_summed_up() -> None:
    row = summary(
        {
            "missing": np.array([-0.5, -0.001, -0.0011, math.nan]),
            "extra": np.array([-0.2] * 19 + [-0.0002]),
        }
    )
    assert row["missing"] == pytest.approx(-0.5021 / 3)
    assert (row["missing_share"], row["extra_share"]) == (0.5, 0.95)
    assert row["passes"] is False
    assert summary({"missing": np.full(20, -1.0), "extra": np.full(1, -1.0)})["passes"] is True
    nothing = summary({"missing": np.array([]), "extra": np.full(20, -1.0)})
    assert nothing["passes"] is None
    assert math.isnan(nothing["missing_share"])


def layer(units: int = 40, images: int = 2000, signal: float = 5.0) -> Layer:
    """Units that fire on the images of their class, most of them, above some noise."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, units, images)
    c = torch.from_numpy(classes[:, None] == np.arange(units))
    q = torch.from_numpy(rng.normal(size=(images, units))).float() + signal * c
    return Layer(q, c, torch.arange(units), has_classes=True)


def test_checks_on_units_of_a_network() -> None:
    names = ["recall", "precision", "f1", "iou", "correlation", "wpmi", "similarity.cosine"]
    table = experimental(layer(), names).set_index("metric")
    assert list(table.index) == names
    assert set(table["missing_units"]) == set(table["extra_units"]) == {38}  # two to validate on
    assert table["passes"].tolist() == [False, False, True, True, True, False, True]
    assert table["missing_share"]["recall"] == 1.0
    assert table["extra_share"]["recall"] == 0.0
    assert table["extra_share"]["precision"] == 1.0
    assert (table["auprc"] > 0.99).all()
    assert table["alpha"].notna().tolist() == [True] * 4 + [False, True, False]
    assert table["lam"].notna().tolist() == [False] * 5 + [True, False]


def test_drops_on_units_are_differences_of_metrics() -> None:
    whole = layer(units=6, images=300)
    table = experimental(whole, ["correlation", "mad"], seed=1).set_index("metric")
    _, test = split_units(whole, 1)
    rest, generator = whole.take(test), torch.Generator().manual_seed(1)
    corrupted = [missing_labels(rest.concepts, generator), extra_labels(rest.concepts, generator)]
    matrices = [label_metrics(rest.activations, c) for c in (rest.concepts, *corrupted)]
    for name in ("correlation", "mad"):
        before, missing, extra = (matrix[name] for matrix in matrices)
        seen = torch.stack([before, missing, extra])
        largest = 2.0 if name == "correlation" else float(seen.max() - seen.min())
        own = range(len(test)), test.tolist()
        for kind, after in (("missing", missing), ("extra", extra)):
            expected = float((after - before)[own].mean()) / largest
            assert table[kind][name] == pytest.approx(expected, abs=1e-6)


def test_units_whose_labels_cant_change_are_not_counted() -> None:
    whole = layer(units=30, images=400)
    concepts = whole.concepts.clone()
    concepts[:, :15] = False
    concepts[torch.arange(15), torch.arange(15)] = True  # a single image: half or none remains
    table = experimental(Layer(whole.activations, concepts, whole.correct), ["f1"], seed=0)
    _, test = split_units(whole, 0)
    assert table["missing_units"].tolist() == [int((test >= 15).sum())]
    assert int((test >= 15).sum()) < table["extra_units"].item() < len(test)
    assert math.isnan(table["auprc"].item())


def test_alpha_is_the_one_that_finds_the_classes() -> None:
    # Classes of a twentieth of the images each.
    found = tuned(layer(20, 2000), ["iou", "correlation"], [0.0005, 0.05, 0.5], [1.0])
    assert found == {"iou": Setting(0.05, 1.0), "correlation": Setting()}


def test_lam_is_tried_on_a_grid() -> None:
    whole = layer(10, 500, signal=0.3)
    lams = [0.0, 0.5, 1.0]
    found = tuned(whole, ["wpmi"], [0.1], lams)["wpmi"]
    of_lams = [
        label_metrics(whole.activations, whole.concepts, ["wpmi"], 0.1, lam)["wpmi"] for lam in lams
    ]
    auprc = correct_pairs_auprc(torch.stack(of_lams), whole.correct).tolist()
    assert len(set(auprc)) > 1
    best = [lam for lam, value in zip(lams, auprc, strict=True) if value == max(auprc)]
    assert found == Setting(0.1, best[len(best) // 2])


def test_the_middle_of_equally_good_alphas_is_taken() -> None:
    whole = layer(4, 400)  # with units and labels the same, any alpha finds the classes
    perfect = Layer(whole.concepts.float(), whole.concepts, whole.correct)
    alphas = [0.01, 0.02, 0.05, 0.1, 0.9]
    assert tuned(perfect, ["iou"], alphas, [1.0])["iou"] == Setting(0.05, 1.0)


def test_auprc_of_pairs_by_hand() -> None:
    # Right are 3 (second of all) and 2 (third); then 3 is undefined, and last; then all are.
    nan = math.nan
    values = [[[3.0, 9], [1, 2]], [[nan, 9.0], [1, 2]], [[nan, nan], [nan, nan]]]
    found = correct_pairs_auprc(torch.tensor(values), torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2, (1 / 2 + 2 / 4) / 2, 0.5])


def test_correct_concepts_by_iou_and_by_class() -> None:
    whole = layer(5, 1000)
    labels = ImageLabels(("a", "b", "c", "d", "e"), whole.concepts)
    q = torch.cat([whole.activations[:, [3, 1]], torch.ones(1000, 1)], dim=1)
    by_iou = layer_by_iou(q, labels)
    assert by_iou.correct.tolist() == [3, 1, -1]  # the last unit is dead
    assert not by_iou.has_classes
    classes = layer_of_classes(q, labels, ["D", "x", "a"])
    assert classes.correct.tolist() == [3, -1, 0]
    assert classes.has_classes


def test_validation_units_are_one_in_twenty() -> None:
    validation, test = split_units(layer(60, 100), seed=0)
    assert (len(validation), len(test)) == (3, 57)
    assert sorted([*validation, *test]) == list(range(60))
    assert split_units(layer(60, 100), seed=1)[0].tolist() != validation.tolist()


def test_top_k_suits_the_number_of_images() -> None:
    assert suited("soft_wpmi", 1000).parameters["top_k"] == 20
    assert suited("soft_wpmi", 50_000).parameters["top_k"] == 100
    assert suited("wpmi", 10).parameters["top_k"] == 1
    assert suited("lp", 10) == similarity.build("lp")


def test_scores_keep_the_order_of_names() -> None:
    whole = layer(3, 100)
    names = ["similarity.lp", "iou", "similarity.cosine", "recall"]
    settings = {**dict.fromkeys(names, Setting()), "recall": Setting(alpha=0.5)}
    computed = scores(names, whole.activations, whole.concepts, settings)
    assert list(computed) == names
    expected = label_metrics(whole.activations, whole.concepts, ["recall"], alpha=0.5)["recall"]
    assert torch.equal(computed["recall"], expected)
    P = whole.concepts.float()
    assert torch.equal(computed["similarity.lp"], similarity.build("lp")(P, whole.activations))


def test_names_and_sizes_are_checked() -> None:
    assert set(NAMES) > set(METRICS)
    with pytest.raises(DissectError, match=r"unknown metric 'similarity\.lpp'.*similarity\.lp"):
        checks.check_names(["similarity.lpp"])
    for gammas in ([0.00001], [0.5], []):
        with pytest.raises(DissectError, match="each must give at least one image"):
            ideal_units(gammas, 1000)
    assert ideal_units(GAMMAS, 500_000).sum(0).tolist() == [249_500, 50_000, 5000, 500, 50]
    nothing = Layer(torch.rand(9, 3), torch.ones(9, 1) > 0, torch.tensor([0, -1, -1]))
    with pytest.raises(DissectError, match="1 units of the layer have a correct concept"):
        experimental(nothing)
