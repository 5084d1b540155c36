"""Confidence of descriptions: calibrated, cross-fitted, and with guarantees that hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from clipdissect.errors import DissectError
from clipdissect.evaluation import Resampling
from clipdissect.evaluation.measures import auc
from clipdissect.scores.confidence import (
    TRANSFER,
    ConfidenceSettings,
    confidence,
    confidence_of_run,
    features_of,
    right_of,
)
from clipdissect.scores.confidence_model import fit_confidence
from clipdissect.scores.conformal import conformal_threshold, prediction_set
from clipdissect.scores.reliability import calibration
from clipdissect.scores.risk_coverage import aurc, figure, risk_coverage, risk_intervals
from clipdissect.utils.figures import save_figure

FEW = Resampling(resamples=100)
nan = float("nan")


def planted(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features on different scales, truth, and the probability that it was drawn with."""
    draw = np.random.default_rng(seed)
    z = draw.random((n, 2))
    p = expit(3 * z[:, 0] + 4 * z[:, 1] - 3)
    return np.column_stack([np.exp(9 * z[:, 0]), z[:, 1] ** 5]), (draw.random(n) < p) * 1.0, p


# -- the model


def test_it_finds_planted_probabilities() -> None:
    features, right, p = planted(4000)
    values = confidence(features, right)
    assert np.abs(values - p).mean() < 0.03
    assert calibration(values, right)["ece"] < 0.025


def test_a_step_needs_no_logistic_shape() -> None:
    draw = np.random.default_rng(1)
    margin = draw.random(4000)
    p = np.where(margin < 0.5, 0.2, 0.9)
    values = confidence(margin[:, None], (draw.random(4000) < p) * 1.0)
    assert np.abs(values - p).mean() < 0.04  # the logistic curve alone: 0.12


def test_a_units_own_truth_does_not_serve_its_confidence() -> None:
    crossed, in_sample = [], []
    for seed in range(30):
        draw = np.random.default_rng(seed)
        features, right = draw.random((80, 2)), (draw.random(80) < 0.5) * 1.0
        values = confidence(features, right, seed=seed)
        assert values.mean() == pytest.approx(right.mean(), abs=0.06)
        crossed.append(auc(values, right))
        in_sample.append(auc(fit_confidence(features, right).apply(features), right))
    assert np.mean(crossed) == pytest.approx(0.5, abs=0.04)
    assert np.mean(in_sample) > 0.6  # so the test can tell


def test_other_units_are_on_the_fitted_scale() -> None:
    features, right, _ = planted(500)
    model = fit_confidence(features, right)
    inside, outside = model.apply(features), model.apply(np.array([[1e9, 9.0], [-1.0, -1.0]]))
    assert outside.tolist() == [inside.max(), inside.min()]
    assert 0 < inside.min() < inside.max() < 1
    # Monotone in each feature, here with weights above 0.
    line = model.apply(np.column_stack([np.full(50, 90.0), np.linspace(0, 1, 50)]))
    assert (np.diff(line) >= 0).all() and line[-1] > line[0] + 0.3


def test_no_unit_is_certainly_right() -> None:
    margin = np.arange(60.0)
    model = fit_confidence(margin[:, None], (margin >= 30) * 1.0)
    # 30 right units and the added wrong one; 30 wrong ones and the added right one.
    assert model.apply(margin[:, None]) == pytest.approx([1 / 31] * 30 + [30 / 31] * 30)


def test_units_without_score_or_truth() -> None:
    features, right, _ = planted(300)
    whole = confidence(features[2:], right[2:])
    features[0, 1] = nan
    right[1] = nan
    values = confidence(features, right)
    assert np.isnan(values[0])
    expected = fit_confidence(features[2:], right[2:]).apply(features[1:2])
    assert values[1] == expected[0]
    assert values[2:].tolist() == whole.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": 49}, "49 described units with truth, .* 50 units, 5 right and 5 wrong"),
        ({"right": 1.0}, "60 described units with truth, 60 of"),
        ({"right": 0.5}, "right is 0.5 for some unit; it must be 0 or 1"),
        ({"margin": nan}, "0 described units"),
        ({"folds": 1}, "folds is 1; it must be between 2 and the 60 units"),
        ({"folds": 61}, "folds is 61"),
    ],
)
def test_too_little_truth(change: dict[str, Any], message: str) -> None:
    units = change.get("units", 60)
    features = np.random.default_rng(0).random((units, 2))
    features[:, 1] *= change.get("margin", 1)
    right = np.arange(units) % 2 * 1.0
    right = np.full(units, change["right"]) if "right" in change else right
    with pytest.raises(DissectError, match=message):
        confidence(features, right, folds=change.get("folds", 5))


# -- risk and coverage


def test_risk_coverage_by_hand() -> None:
    values = np.array([0.5, 0.9, nan, 0.3, 0.9, 0.8])
    curve = risk_coverage(values, np.array([1.0, 1.0, 1.0, 0.0, 0.0, nan]))
    assert curve["threshold"].tolist() == [0.9, 0.5, 0.3]
    assert curve["described"].tolist() == [2, 3, 4]
    assert curve["coverage"].tolist() == [0.5, 0.75, 1.0]
    assert curve["wrong"].tolist() == [1, 1, 2]
    assert curve["risk"].tolist() == [1 / 2, 1 / 3, 1 / 2]
    assert aurc(curve) == pytest.approx((2 / 2 + 1 / 3 + 1 / 2) / 4)
    constant = risk_coverage(np.full(4, 0.7), np.array([1.0, 0.0, 0.0, 1.0]))
    assert len(constant) == 1 and aurc(constant) == 0.5


def slow_curve(values: list[float], right: list[float]) -> tuple[float, dict[float, float]]:
    """Per unit in turn: the risk among all units at least as confident."""
    risks = {}
    for value in values:
        wrong = [1 - r for v, r in zip(values, right, strict=True) if v >= value]
        risks[len(wrong) / len(values)] = sum(wrong) / len(wrong)
    each = [risks[sum(v >= value for v in values) / len(values)] for value in values]
    return sum(each) / len(each), risks


def test_intervals_equal_a_slow_bootstrap() -> None:
    draw = np.random.default_rng(3)
    values, right = np.round(draw.random(40), 1), (draw.random(40) < 0.6) * 1.0
    bands, area = risk_intervals(values, right, FEW, (0.25, 0.5, 1.0))
    drawn: list[list[float]] = []
    for row in np.concatenate(list(FEW.rows(40))):
        mean, risks = slow_curve(values[row].tolist(), right[row].tolist())
        at = [risks[min(c for c in risks if c >= wanted)] for wanted in (0.25, 0.5, 1.0)]
        drawn.append([mean, *at])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    assert [area["low"], area["high"]] == pytest.approx([low[0], high[0]])
    assert bands["low"].tolist() == pytest.approx(low[1:])
    assert bands["high"].tolist() == pytest.approx(high[1:])
    mean, risks = slow_curve(values.tolist(), right.tolist())
    assert aurc(risk_coverage(values, right)) == pytest.approx(mean)
    for row in bands.to_dict("records"):
        assert row["risk"] == pytest.approx(risks[row["described"] / 40])
        assert row["described"] == (values >= row["threshold"]).sum() >= 40 * row["coverage"]


def test_risk_of_nothing() -> None:
    with pytest.raises(DissectError, match="no unit has both"):
        risk_coverage(np.array([nan, 0.5]), np.array([1.0, nan]))
    with pytest.raises(DissectError, match=r"a coverage is 1.5; it must be above 0"):
        risk_intervals(np.array([0.5]), np.array([1.0]), FEW, [1.5])


# -- calibration


def test_calibration_by_hand() -> None:
    result = calibration(np.array([0.05, 0.15, 0.15, 1.0, nan]), np.array([0, 0, 1.0, 1, 1]))
    assert result["ece"] == pytest.approx((0.05 + 2 * abs(0.15 - 0.5) + 0.0) / 4)
    assert result["brier"] == pytest.approx((0.05**2 + 0.15**2 + 0.85**2 + 0) / 4)
    assert result["brier_of_constant"] == pytest.approx(0.25)
    ends = [(row["from"], row["to"], row["units"]) for row in result["reliability"]]
    assert ends == [(0.0, 0.1, 1), (0.1, 0.2, 2), (0.9, 1.0, 1)]
    # Wilson's interval of 1 of 2.
    row = result["reliability"][1]
    assert [row["low"], row["right"], row["high"]] == pytest.approx([0.0945, 0.5, 0.9055], abs=1e-4)
    with pytest.raises(DissectError, match="no unit has both"):
        calibration(np.array([nan]), np.array([1.0]))


# -- guarantees


def test_a_threshold_holds_its_guarantee() -> None:
    # P(right) is uniform from 0.6 to 1: above a threshold t, (1 - t) / 2 of the units are wrong.
    found = []
    for seed in range(300):
        draw = np.random.default_rng(seed)
        p = 0.6 + 0.4 * draw.random(600)
        right = (draw.random(600) < p) * 1.0
        found.append(conformal_threshold(p, right, error=0.1, delta=0.2, seed=seed)["threshold"])
    errors = np.array([(1 - t) / 2 for t in found if t is not None])
    assert len(errors) > 200  # mostly there is a threshold, and not one far too high
    assert np.median(errors) > 0.06
    assert (errors > 0.1).sum() / len(found) <= 0.2 + 2 * np.sqrt(0.2 * 0.8 / 300)


def test_a_useless_confidence_is_rarely_accepted() -> None:
    found = []
    for seed in range(300):
        right = (np.random.default_rng(seed).random(600) < 0.895) * 1.0
        result = conformal_threshold(np.full(600, 0.5), right, error=0.1, delta=0.2, seed=seed)
        found.append(result["threshold"] is not None)
    assert 0 < np.mean(found) <= 0.2


def test_all_right() -> None:
    result = conformal_threshold(np.linspace(0, 1, 200), np.ones(200), error=0.1, delta=0.1)
    assert result["threshold"] == 0.0
    bound = 1 - 0.1 ** (1 / 100)  # (1 - bound)^100 = delta
    expected = {"units": 100, "described": 100, "wrong": 0, "bound": pytest.approx(bound)}
    assert result["calibration"] == result["test"] == expected


def test_no_threshold_has_a_reason() -> None:
    few = conformal_threshold(np.full(20, 0.9), np.ones(20), error=0.1)
    assert few["threshold"] is None
    assert few["reason"] == "20 units with truth are too few for an error of 0.1"
    wrong = conformal_threshold(np.full(200, 0.9), np.zeros(200), error=0.1)
    assert wrong["threshold"] is None
    assert wrong["reason"].startswith("at the first threshold, 0.90, 100 of 100 described")


def test_sets_contain_the_right_concept() -> None:
    shares, tested = [], []
    for seed in range(300):
        draw = np.random.default_rng(seed)
        ranks = draw.geometric(0.3, 100).astype(float)
        result = prediction_set(ranks, alpha=0.2, seed=seed)
        shares.append(1 - 0.7 ** result["rank"])  # P(geometric <= rank)
        tested.append(result["test_coverage"])
    # At least 1 - alpha; ranks are whole, so the next smaller one would be below it.
    assert 0.8 <= np.mean(shares) < 0.86
    assert np.mean(tested) == pytest.approx(np.mean(shares), abs=0.01)


def test_sets_by_hand() -> None:
    # 9 calibration units: place ceil(10 * 0.9) = 9, their largest rank.
    ranks = np.full(18, 4.0)
    assert prediction_set(ranks, alpha=0.1)["rank"] == 4.0
    assert prediction_set(np.append(ranks, nan), alpha=0.1)["calibration"] == 9
    few = prediction_set(ranks[:16], alpha=0.1)
    assert few["rank"] is None
    assert few["reason"] == "8 calibration units are too few for alpha=0.1"
    unknown = prediction_set(np.full(18, np.inf), alpha=0.1)
    assert unknown["rank"] is None and "no concept" in unknown["reason"]


@pytest.mark.parametrize("share", [0.0, 1.0, nan])
def test_shares_are_between_0_and_1(share: float) -> None:
    values = np.full(60, 0.5)
    with pytest.raises(DissectError, match=r"error is .*; it must be between 0 and 1"):
        conformal_threshold(values, values, error=share)
    with pytest.raises(DissectError, match=r"delta is .*; it must be between 0 and 1"):
        conformal_threshold(values, values, delta=share)
    with pytest.raises(DissectError, match=r"alpha is .*; it must be between 0 and 1"):
        prediction_set(values, alpha=share)


# -- a run's files


def run_tables(n: int = 600) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The files of a last layer with a dead unit, and a hidden layer of 3 units before it."""
    features, right, _ = planted(n + 3)
    layers, numbers = ["hidden"] * 3 + ["fc"] * n, [*range(3), *range(n)]
    descriptions = pd.DataFrame({"layer": layers, "unit": numbers, "description": "dog"})
    descriptions["similarity"], descriptions["margin"] = features.T
    descriptions.loc[4, ["similarity", "margin"]] = nan
    right[4] = 0
    descriptions["truth_rank"] = np.where(np.arange(n + 3) < 3, nan, 4 - 3 * right)
    descriptions.loc[4, "truth_rank"] = nan
    units = pd.DataFrame({"layer": "fc", "unit": range(n), "right": right[3:]})
    return descriptions, units.iloc[::-1]  # in another order


def test_a_last_layers_run(tmp_path: Path) -> None:
    descriptions, units = run_tables()
    right = right_of(descriptions, units)
    assert np.isnan(right[:3]).all() and right[3:].tolist() == units["right"][::-1].tolist()
    result = confidence_of_run(descriptions, right, None, ConfidenceSettings(error=0.2), FEW)
    expected = confidence(features_of(descriptions), right.to_numpy())
    np.testing.assert_array_equal(result.column, expected)
    assert np.flatnonzero(result.column.isna()).tolist() == [4]
    metrics = json.loads(json.dumps(result.metrics, allow_nan=False))
    assert (metrics["units"], metrics["with_confidence"], metrics["with_truth"]) == (603, 602, 599)
    assert metrics["right"] == right.sum() and metrics["note"] == TRANSFER
    assert metrics["aurc"]["low"] < metrics["aurc"]["value"] < metrics["aurc"]["high"]
    assert metrics["aurc_of_constant"] == pytest.approx(1 - right.sum() / 599)
    assert metrics["aurc"]["high"] < metrics["aurc_of_constant"]
    assert metrics["aurc"]["value"] == aurc(result.curve)
    assert metrics["prediction_set"]["rank"] == 4
    threshold = metrics["conformal_threshold"]
    assert threshold["fitted"] == 199 and threshold["calibration"]["units"] == 200
    assert threshold["test"]["wrong"] / threshold["test"]["described"] < 0.25
    assert threshold["kept"] == result.kept.sum() > 100 and not result.kept[4]
    assert result.column[result.kept].mean() > result.column[~result.kept].mean() + 0.2
    save_figure(figure(result.curve, result.bands), tmp_path, "risk", formats=["png"])
    assert (tmp_path / "risk.png").read_bytes()[:4] == b"\x89PNG"


def test_a_held_out_score_is_truth() -> None:
    descriptions, units = run_tables(240)
    right = right_of(descriptions, units)
    score = 0.2 + 0.3 * right  # NaN for the hidden layer
    settings = ConfidenceSettings(features=["margin"], threshold=0.3)
    result = confidence_of_run(descriptions, score=score, settings=settings, resampling=FEW)
    expected = confidence(features_of(descriptions, ["margin"]), right.to_numpy())
    np.testing.assert_array_equal(result.column, expected)
    assert result.metrics["right_is"] == "held-out score above 0.3"


def test_a_small_run_has_no_threshold() -> None:
    descriptions, units = run_tables(100)
    result = confidence_of_run(descriptions, right_of(descriptions, units), resampling=FEW)
    threshold = result.metrics["conformal_threshold"]
    assert threshold["threshold"] is None and not result.kept.any()
    assert "a third of the units isn't enough: confidence can't be" in threshold["reason"]


def test_unclear_truth() -> None:
    descriptions, units = run_tables(60)
    right = right_of(descriptions, units)
    with pytest.raises(DissectError, match="either right labels or a held-out score"):
        confidence_of_run(descriptions)
    with pytest.raises(DissectError, match="either right labels or a held-out score"):
        confidence_of_run(descriptions, right, right)
    with pytest.raises(DissectError, match="a threshold belongs to a held-out score"):
        confidence_of_run(descriptions, score=right)
    with pytest.raises(DissectError, match="must have the rows of the descriptions"):
        confidence_of_run(descriptions, units["right"])
    with pytest.raises(DissectError, match=r"unknown feature 'margn'. Did you mean margin"):
        features_of(descriptions, ["margn"])
    with pytest.raises(DissectError, match="at least one feature, such as similarity"):
        features_of(descriptions, [])
    with pytest.raises(DissectError, match=r"unknown column of units.csv 'top5'"):
        right_of(descriptions, units, "top5")
