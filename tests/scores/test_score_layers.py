"""Scores of a layer's labels next to control labels, and their means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clipdissect.errors import DissectError
from clipdissect.evaluation import Resampling
from clipdissect.evaluation.bootstrap import mean_interval, mean_intervals
from clipdissect.scores.base import Pairs, Scorer, Scores
from clipdissect.scores.controls import control_labels
from clipdissect.scores.layers import chance_level, score_layer
from clipdissect.scores.scorers import ScoreOptions
from clipdissect.scores.summary import differences, minus, pooled, summarise

NAN = float("nan")
LENGTHS = {"a": 1.0, "bb": 2.0, "ccc": 3.0}


class Lengths(Scorer):
    """The length of a text, times ten for the unit with its number; undefined for "??"."""

    name = "lengths"

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.calls: list[list[str]] = []

    def score(self, layer: str, pairs: Pairs, texts: Sequence[str]) -> Scores:
        self.calls.append(list(texts))
        values = [
            NAN if texts[text] == "??" else len(texts[text]) * (10.0 if unit == text else 1.0)
            for unit, text in zip(pairs.units, pairs.texts, strict=True)
        ]
        return {"length": np.array(values)}


ROWS = pd.DataFrame({"unit": [0, 1, 2, 3], "description": ["a", "bb", "", "a"]})


def test_a_layer_with_controls() -> None:
    scorer = Lengths()
    found = score_layer(scorer, "conv", ROWS, ("ccc",), 3)
    assert list(found) == ["labels", "constant", "random", "shuffled"]
    assert scorer.calls == [["a", "bb", "ccc"]]  # once, each text once
    expected = {
        "labels": [10.0, 20.0, NAN, 1.0],
        "constant": [10.0, 1.0, NAN, 1.0],
        "random": [3.0, 3.0, NAN, 3.0],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name]["length"], values)
    # The three labels in any order: the sum of a draw's lengths is 4, with factors more.
    assert np.isnan(found["shuffled"]["length"][2])
    assert np.nansum(found["shuffled"]["length"]) >= 4


def test_draws_that_are_undefined_do_not_count() -> None:
    rows = pd.DataFrame({"unit": [5, 6], "description": ["??", "bb"]})
    found = score_layer(Lengths(), "conv", rows, (), 20)
    np.testing.assert_array_equal(found["labels"]["length"], [NAN, 2.0])
    np.testing.assert_array_equal(found["shuffled"]["length"], [2.0, 2.0])


class Short(Lengths):
    """Accepts texts of two letters at most."""

    def accepts(self, text: str) -> bool:
        return len(text) < 3


def test_controls_are_texts_that_can_have_a_score() -> None:
    rows = pd.DataFrame({"unit": [5, 6, 7], "description": ["ccc", "a", "ccc"]})
    found = score_layer(Short(), "conv", rows, (), draws=9)
    for name in ("labels", "constant", "random", "shuffled"):
        np.testing.assert_array_equal(found[name]["length"], [NAN, 1.0, NAN])


def test_a_layer_without_descriptions() -> None:
    rows = pd.DataFrame({"unit": [0, 1], "description": ["", ""]})
    found = score_layer(Lengths(), "conv", rows, ("ccc",))
    assert found == {"labels": {}}
    assert summarise(found, Resampling(100)) == {}
    scorer = Lengths()
    assert chance_level(scorer, "conv", rows) == {}
    assert not scorer.calls  # scorers needn't know of no pairs


def test_the_chance_level_is_a_percentile_of_shuffled_labels() -> None:
    rows = pd.DataFrame({"unit": range(10, 110), "description": ["a", "bb"] * 50})
    assert chance_level(Lengths(), "conv", rows, 4) == {"length": 2.0}
    assert chance_level(Lengths(), "conv", rows, 4, percentile=5) == {"length": 1.0}


def test_control_labels() -> None:
    labels = ["b", "a", "b", "c"]
    found = control_labels(labels, ["x", "y"], draws=50, seed=1)
    assert found["constant"] == [["b"] * 4]
    assert len(found["random"]) == len(found["shuffled"]) == 50
    assert {text for row in found["random"] for text in row} == {"x", "y"}
    assert all(sorted(row) == ["a", "b", "b", "c"] for row in found["shuffled"])
    assert found == control_labels(labels, ["x", "y"], draws=50, seed=1)
    words = [str(number) for number in range(5000)]
    few = control_labels(labels, words, draws=2000, seed=1)["random"]
    more = control_labels([*labels, "d"], words, draws=2000, seed=1)["random"]
    drawn = {text for row in few for text in row}
    assert 990 < len(drawn) <= 1000
    assert len(drawn | {text for row in more for text in row}) <= 1000  # of every layer
    assert "random" not in control_labels(labels, [], draws=1, seed=0)
    assert control_labels([], ["x"], draws=1, seed=0) == {}


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"seed": -1}])
def test_options_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(DissectError, match="it must be at least"):
        ScoreOptions(**wrong)


def of(labels: list[float], **controls: list[float]) -> dict[str, dict[str, Any]]:
    return {name: {"s": np.array(v)} for name, v in {"labels": labels, **controls}.items()}


def test_the_summary_says_which_controls_reach_the_labels() -> None:
    controls = {"constant": [0.0, 1.0, 2.5], "random": [1.0, 2.0, 3.0], "shuffled": [NAN] * 3}
    values = of([1.0, 2.0, 3.0] * 4, **{name: row * 4 for name, row in controls.items()})
    found = summarise(values, Resampling(500))["s"]
    assert found["value"] == 2.0
    assert found["units"] == 12
    assert found["controls"]["constant"]["difference"]["value"] == pytest.approx(2.5 / 3)
    assert found["controls"]["random"]["difference"]["low"] == 0.0
    assert found["reached_by"] == ["random"]  # an undefined control tells nothing
    below = summarise(of([1.0] * 10, constant=[2.0] * 10), Resampling(100))["s"]
    assert below["reached_by"] == ["constant"]
    few = summarise(of([1.0] * 9, constant=[2.0] * 9), Resampling(100))["s"]
    assert (few["value"], few["low"], few["reached_by"]) == (1.0, None, [])
    assert few["reason"] == "fewer than 10 units have it"


def test_differences_are_paired_over_common_units() -> None:
    first, second = of([1.0, 2.0, NAN, 4.0] * 5), of([0.5, NAN, 9.0, 3.5] * 5)
    found = differences(minus(first, second, np.arange(20)), Resampling(100))["s"]
    assert (found["value"], found["low"], found["high"], found["units"]) == (0.5, 0.5, 0.5, 10)
    undefined = minus(of([NAN]), of([1.0]), np.array([0]))
    assert differences(undefined, Resampling(100)) == {}


def test_differences_are_of_the_same_units_in_any_order() -> None:
    # The second labels' rows are of the first's units 2 and 0; they have none of unit 1.
    found = minus(of([1.0, 2.0, 4.0]), of([3.0, 0.5]), np.array([1, -1, 0]))
    np.testing.assert_array_equal(found["labels"]["s"], [0.5, NAN, 1.0])
    assert minus(of([1.0]), {"labels": {}}, np.array([0])) == {"labels": {}}


def test_layers_are_pooled() -> None:
    layers = {
        "a": {"labels": {"s": np.array([1.0]), "t": np.array([5.0])}},
        "b": {"labels": {"s": np.array([2.0, 3.0])}, "constant": {"s": np.array([0.0, 0.0])}},
    }
    found = pooled(layers)
    assert list(found) == ["a", "b", "all layers"]
    np.testing.assert_array_equal(found["all layers"]["labels"]["s"], [1, 2, 3])
    np.testing.assert_array_equal(found["all layers"]["labels"]["t"], [5, NAN, NAN])
    np.testing.assert_array_equal(found["all layers"]["constant"]["s"], [NAN, 0, 0])
    assert list(pooled({"a": layers["a"]})) == ["a"]


def test_intervals_of_many_columns_are_those_of_each() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(60, 3))
    values[5:, 2] = NAN
    resampling = Resampling(300, seed=4)
    found = mean_intervals(values, resampling)
    assert [column["units"] for column in found] == [60, 60, 5]
    drawn = np.concatenate([values[rows, 0].mean(1) for rows in resampling.rows(60)])
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found[0]["low"] == pytest.approx(low)
    assert found[0]["high"] == pytest.approx(high)
    assert found[1] == pytest.approx(mean_interval(values[:, 1], resampling))
    assert found[2]["value"] == pytest.approx(values[:5, 2].mean())
    assert found[2]["low"] < found[2]["value"] < found[2]["high"]
    assert mean_intervals(np.full((3, 1), NAN), resampling)[0]["value"] is None


def test_pairs_have_a_text_each() -> None:
    with pytest.raises(ValueError, match="2 units, but 1 texts"):
        Pairs(np.array([1, 2]), np.array([0]))
