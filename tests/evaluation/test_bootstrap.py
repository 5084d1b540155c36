"""Metrics of resampled units, intervals and paired differences, against slow references."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from clipdissect.errors import DissectError
from clipdissect.evaluation import Resampling, Units, difference, interval, values
from clipdissect.evaluation.bootstrap import (
    distributions,
    intervals,
    mean_difference,
    mean_interval,
    share_difference_interval,
    share_interval,
)
from clipdissect.evaluation.measures import auc, mean, median


def units(n: int = 60, seed: int = 0) -> Units:
    draw = np.random.default_rng(seed)
    right = (draw.random(n) < 0.5).astype(float)
    rank = np.where(right > 0, 1.0, draw.integers(2, 99, n))
    rank[:3] = np.nan
    cosines = draw.random(n)
    cosines[5] = np.nan
    scores = np.round(draw.random(n) + right / 3, 1)  # with ties
    return Units(
        pd.DataFrame(
            {
                "layer": "fc",
                "unit": range(n),
                "truth": [f"class {i}" for i in range(n)],
                "similarity": scores,
                "right": right,
                "top5": (rank <= 5).astype(float),
                "rank": rank,
                "plane_cos": cosines,
            }
        ),
        {},
    )


def slow_auc(scores: np.ndarray, right: np.ndarray) -> float:
    """Over all pairs of a right and a wrong unit."""
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, is_a in zip(scores, right, strict=True)
        if is_a == 1 and a == a
        for b, is_b in zip(scores, right, strict=True)
        if is_b == 0 and b == b
    ]
    return sum(wins) / len(wins) if wins else float("nan")


def test_auc_by_hand() -> None:
    scores = np.array([3.0, 1.0, 2.0, 2.0, np.nan])
    # Pairs of right (3, 2) and wrong (1, 2): 3>1, 3>2, 2>1, 2=2; the unit without a score is out.
    assert auc(scores, np.array([1.0, 0, 1, 0, 0])) == pytest.approx(3.5 / 4)
    assert np.isnan(auc(scores, np.ones(5)))
    assert np.isnan(auc(scores, np.zeros(5)))


def test_auc_is_every_reference_and_no_monotone_change_moves_it() -> None:
    table = units(80).table
    scores, right = (table[c].to_numpy() for c in ("similarity", "right"))
    ours = float(auc(scores, right))
    assert ours == pytest.approx(slow_auc(scores, right))
    assert float(auc(np.exp(3 * scores) - 5, right)) == pytest.approx(ours)
    assert float(auc(-scores, right)) == pytest.approx(1 - ours)
    metrics = pytest.importorskip("sklearn.metrics", reason="needs the extra `offline`")
    assert ours == pytest.approx(metrics.roc_auc_score(right, scores))


def test_many_sets_at_once_are_as_one_by_one() -> None:
    table = units().table
    rows = np.random.default_rng(1).integers(0, len(table), (50, len(table)))
    for column in ("rank", "plane_cos", "right"):
        values = table[column].to_numpy()
        slow = [pd.Series(values[r]).mean() for r in rows]
        assert mean(values[rows]) == pytest.approx(slow)
        assert median(values[rows]) == pytest.approx([pd.Series(values[r]).median() for r in rows])
    scores, right = (table[c].to_numpy() for c in ("similarity", "right"))
    found = auc(scores[rows], right[rows])
    assert found == pytest.approx([slow_auc(scores[r], right[r]) for r in rows])


def test_distributions_are_a_loop_over_resampled_units() -> None:
    some, how = units(), Resampling(resamples=200, seed=3)
    drawn = distributions(some, how)
    assert set(drawn) == {"plane_cos", "top1", "top5", "mean_rank", "median_rank", "auc"}
    sets = np.concatenate(list(how.rows(60)))
    assert sets.shape == (200, 60)
    for i in (0, 1, 199):
        one = values(some.take(sets[i]))
        assert {name: drawn[name][i] for name in drawn} == pytest.approx(
            {name: one[name] for name in drawn}
        )


def test_intervals_are_scipys() -> None:
    some, how = units(200), Resampling(resamples=10_000, seed=0)
    cosines = some.table["plane_cos"].dropna().to_numpy()
    reference = stats.bootstrap((cosines,), np.mean, n_resamples=10_000, method="percentile")
    # Over all units; that of one is undefined, which leaves the same distribution but for noise.
    found = interval(distributions(some, how)["plane_cos"], 0.95)
    low, high = reference.confidence_interval
    assert found["low"] == pytest.approx(low, abs=2e-3)
    assert found["high"] == pytest.approx(high, abs=2e-3)
    # BCa, which we don't use, is where it is defined nowhere far from it.
    other = stats.bootstrap((cosines,), np.mean, n_resamples=10_000, method="BCa")
    assert found["low"] == pytest.approx(other.confidence_interval[0], abs=3e-3)


def test_intervals_cover_as_often_as_they_say() -> None:
    draw, inside = np.random.default_rng(5), 0
    for seed in range(200):
        sample = Units(pd.DataFrame({"plane_cos": draw.normal(size=80)}), {})
        found = interval(distributions(sample, Resampling(400, seed=seed))["plane_cos"], 0.9)
        inside += found["low"] <= 0 <= found["high"]
    assert 0.83 < inside / 200 < 0.95


def test_same_seed_same_interval() -> None:
    some = units()
    one, two, other = (distributions(some, Resampling(100, seed=s))["top1"] for s in (1, 1, 2))
    assert one.tolist() == two.tolist() != other.tolist()


def test_undefined_resamples_make_no_interval() -> None:
    table = units(6).table.assign(right=[1.0, 0, 0, 0, 0, 0], similarity=[1.0, 2, 3, 4, 5, 6])
    found = interval(distributions(Units(table, {}), Resampling(100))["auc"], 0.95)
    assert found["low"] is None
    assert "resampled sets" in found["reason"]


def test_differences_are_paired() -> None:
    one = units()
    better = Units(one.table.assign(plane_cos=one.table["plane_cos"] + 0.1), {})
    found = difference(better, one, Resampling(500))
    # The same units in both: what differs by a constant has no spread, however wide each is.
    every = {"units": 59, "only_one": 0, "only_other": 0}
    assert found["plane_cos"] == pytest.approx({"value": 0.1, "low": 0.1, "high": 0.1, **every})
    assert found["mean_rank"]["units"] == 57
    assert found["top1"]["value"] == 0.0
    assert -0.05 < found["top1"]["low"] <= 0 <= found["top1"]["high"] < 0.05
    back = difference(one, better, Resampling(500))
    assert back["plane_cos"]["low"] == pytest.approx(-0.1)
    loose = interval(distributions(one, Resampling(500))["plane_cos"], 0.95)
    assert loose["high"] - loose["low"] > 0.1


def shares(right: list[float]) -> Units:
    names = [f"class {i}" for i in range(len(right))]
    return Units(pd.DataFrame({"unit": range(len(right)), "truth": names, "right": right}), {})


@pytest.mark.parametrize("right", [0, 1, 59, 118])
def test_shares_have_wilsons_interval(right: int) -> None:
    some = shares([1.0] * right + [0.0] * (118 - right))
    found = intervals(some, distributions(some, Resampling(100)), 0.95)["top1"]
    wanted = stats.binomtest(right, 118).proportion_ci(0.95, "wilson")
    assert found == pytest.approx({"low": wanted.low, "high": wanted.high})
    assert found["high"] - found["low"] > 0.02  # nothing is known exactly of 118 units
    assert share_interval(0, 0, 0.95)["low"] is None


def test_differences_of_shares_cover_zero_as_often_as_they_say() -> None:
    draw, inside = np.random.default_rng(3), 0
    for _ in range(500):
        both = draw.random(60) < 0.1
        one, other = ((both | (draw.random(60) < 0.02)).astype(float) for _ in "ab")
        found = share_difference_interval(one, other, 0.9)
        inside += found["low"] <= 0 <= found["high"]
    assert inside / 500 > 0.87
    # None of 118 against one: the bootstrap knows of nothing above 0.
    one, other = np.zeros(118), np.eye(118)[0]
    found = share_difference_interval(one, other, 0.95)
    assert found["low"] < -1 / 118 < 0 < found["high"]


def test_differences_of_shares_by_hand() -> None:
    one = np.array([1.0] * 38 + [0.0] * 12)
    other = np.array([1.0] * 36 + [0.0] * 2 + [1.0] * 3 + [0.0] * 9)
    found = share_difference_interval(one, other, 0.95)
    p, q, phi = 0.76, 0.78, (36 * 9 - 2 * 3) / np.sqrt(38 * 12 * 39 * 11)
    a, b = (stats.binomtest(k, 50).proportion_ci(0.95, "wilson") for k in (38, 39))
    down, up = p - a.low, b.high - q
    assert found["low"] == pytest.approx(p - q - np.sqrt(down**2 - 2 * phi * down * up + up**2))
    assert found["low"] < p - q < found["high"]


def test_leaving_units_out_gains_nothing() -> None:
    every = units(60)
    cosines = every.table["plane_cos"].to_numpy().copy()
    cosines[cosines < np.nanmedian(cosines)] = np.nan  # the hard ones are left out
    some = Units(every.table.assign(plane_cos=cosines, similarity=np.nan), {})
    found = difference(some, every, Resampling(300))
    assert values(some)["plane_cos"] - values(every)["plane_cos"] > 0.2
    assert found["plane_cos"]["value"] == found["plane_cos"]["low"] == 0.0
    counts = {k: found["plane_cos"][k] for k in ("units", "only_one", "only_other")}
    assert counts == {"units": 30, "only_one": 0, "only_other": 29}
    assert found["auc"]["value"] is None
    assert "no unit that both" in found["auc"]["reason"]


def test_only_the_same_units_are_compared() -> None:
    with pytest.raises(DissectError, match="their units and ground truth"):
        difference(units(60), units(59), Resampling())
    other = units().table.assign(truth="x")
    with pytest.raises(DissectError, match="their units and ground truth"):
        difference(units(), Units(other, {}), Resampling())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"resamples": 10}, "at least 100"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"seed": -1}, "at least 0"),
    ],
)
def test_wrong_settings(changes: dict[str, float], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        Resampling(**changes)  # type: ignore[arg-type]


def test_order_of_units_moves_no_metric() -> None:
    some = units()
    order = np.random.default_rng(0).permutation(60)
    assert values(some.take(order)) == pytest.approx(values(some))


def test_means_of_units() -> None:
    draw = np.random.default_rng(0)
    one, other = draw.normal(1.0, 2.0, 400), draw.normal(0.5, 1.0, 250)
    found = mean_interval(np.append(one, np.nan), Resampling(4000))
    assert found["units"] == 400
    assert found["value"] == pytest.approx(one.mean())
    # Of hundreds of units, the interval is nearly that of the normal distribution.
    spread = 1.96 * one.std() / 20
    assert found["high"] - found["value"] == pytest.approx(spread, rel=0.1)
    apart = mean_difference(one, other, Resampling(4000))
    assert apart["value"] == pytest.approx(one.mean() - other.mean())
    spread = 1.96 * np.sqrt(one.var() / 400 + other.var() / 250)
    assert apart["value"] - apart["low"] == pytest.approx(spread, rel=0.1)


def test_differences_of_as_many_units_are_unpaired() -> None:
    values = np.random.default_rng(0).normal(size=100)
    apart = mean_difference(values, values, Resampling(1000))
    assert apart["value"] == 0
    assert apart["high"] > 0.2  # paired rows would give 0


def test_means_of_no_units() -> None:
    none = np.array([np.nan])
    assert mean_interval(none, Resampling(100))["reason"] == "there is nothing to count"
    assert mean_interval(none, Resampling(100))["units"] == 0
    assert mean_difference(none, np.ones(3), Resampling(100))["value"] is None
