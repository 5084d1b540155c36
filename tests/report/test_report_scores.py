"""Scores of units and descriptions in reports, and of one unit in the terminal."""

from __future__ import annotations

import json
import re
import sys
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clipdissect import report
from clipdissect.app import cli
from clipdissect.errors import DissectError
from clipdissect.report.overview import overview
from clipdissect.report.run import load, unit_of
from clipdissect.report.scores import score_of
from clipdissect.results.run_files import write_json, write_table, write_tables

NAN = float("nan")


def scored_run(folder: Path) -> Path:
    """Write a run of two layers, with `units.csv`, `scores.csv`, and means of the first layer."""
    rows = pd.DataFrame(
        {
            "layer": ["a", "a", "a", "b"],
            "unit": [0, 1, 2, 0],
            "description": ["cat", "nan", "", "dog"],
            "similarity": [1.0, 2.0, NAN, 3.0],
            "margin": [0.5, 0.25, NAN, 1.0],
            "unit_flags": [(), (), ("dead",), ()],
        }
    )
    images = pd.DataFrame(columns=["layer", "unit", "rank", "image", "activation"])
    numbers = {
        "clarity": [0.25, 0.75, NAN, 0.5],
        "polysemanticity": [0.1, 0.9, NAN, 0.5],
        "redundancy": [1.0, 0.5, NAN, NAN],  # of the only unit of b undefined
        "monosemanticity": NAN,  # of stored top images
    }
    write_tables(folder, rows, images, rows[["layer", "unit"]].assign(**numbers))
    scores = pd.DataFrame(
        {
            "layer": ["b", "a", "a", "a"],
            "unit": [0, 1, 1, 0],
            "description": ["dog", "other", "nan", "cats"],
            "source": ["x", "x", "y", "z"],
            "simulation": [0.3, -0.5, 0.125, 0.25],
            "my_score": [NAN, 1.0, 2000.0, NAN],
        }
    )
    write_table(folder / "scores.csv", scores)
    means = {"clarity": {"units": 2, "value": 0.5, "low": 0.25, "high": 0.75}}
    write_json(folder / "metrics.json", {"layers": {"a": means}})
    write_json(folder / "run.json", {})
    return folder


def start_of(page: Path) -> Any:
    return json.loads((page.parent / "data/units.js").read_text()[len("dissect.start(") : -3])


def test_scores_are_joined_on_layer_and_unit(tmp_path: Path) -> None:
    run = load(scored_run(tmp_path / "run"))
    assert run.score_names == ["clarity", "polysemanticity", "redundancy", "simulation", "my_score"]
    table = run.scores.set_index(["layer", "unit"])
    assert table["clarity"].tolist() == pytest.approx([0.25, 0.75, NAN, 0.5], nan_ok=True)
    # Of a unit's two rows, the one of the run's description counts.
    assert table["simulation"].tolist() == pytest.approx([0.25, 0.125, NAN, 0.3], nan_ok=True)
    assert table["my_score"].tolist() == pytest.approx([NAN, 2000, NAN, NAN], nan_ok=True)
    assert table["scored"].tolist() == ["cats", "", "", ""]


def test_data_of_the_page(tmp_path: Path) -> None:
    start = start_of(report.build(scored_run(tmp_path / "run")))
    assert [score["name"] for score in start["scores"]][3:] == ["simulation", "my_score"]
    assert [score["low"] for score in start["scores"]] == [False, True, True, False, False]
    assert start["scores"][1]["short"] == "polysem." and start["scores"][4]["title"] == "my score"
    one, other = (layer["sides"][0] for layer in start["layers"])
    clarity, polysemanticity, redundancy, simulation, own = one["c"]
    assert (clarity, redundancy) == ([0.25, 0.75, None], [1, 0.5, None])
    assert (polysemanticity, simulation, own) == (
        [0.1, 0.9, None],
        [0.25, 0.125, None],
        [None, 2000, None],
    )
    assert other["c"] == [[0.5], [0.5], None, [0.3], None]
    assert [start["texts"][n] if n >= 0 else "" for n in one["e"]] == ["cats", "", ""]
    assert "e" not in other


def test_overview_has_means_and_known_intervals(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "run")
    one, other = overview(load(folder))
    found = [(mean.score.name, mean.value, mean.low, mean.high) for mean in one.means]
    assert found == [
        ("clarity", 0.5, 0.25, 0.75),
        ("polysemanticity", 0.5, None, None),
        ("redundancy", 0.75, None, None),
        ("simulation", 0.1875, None, None),
        ("my_score", 2000.0, None, None),
    ]
    assert [mean.score.name for mean in other.means] == ["clarity", "polysemanticity", "simulation"]
    html = " ".join(re.sub(r"<[^>]*>", " ", report.build(folder).read_text()).split())
    assert "clarity 0.500 [0.250, 0.750] polysemanticity 0.500 redundancy 0.750" in html
    assert score_of("clarity").definition in unescape(html)


def test_runs_without_scores_look_as_before(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "run")
    for name in ("units.csv", "scores.csv"):
        (folder / name).unlink()
    page = report.build(folder)
    start = start_of(page)
    assert start["scores"] == [] and "c" not in start["layers"][0]["sides"][0]
    assert 'id="threshold"' not in page.read_text() and "Mean scores" not in page.read_text()
    assert unit_of(load(folder), "a/0").scores == {}


def test_compared_with_a_run_that_has_none(tmp_path: Path) -> None:
    first, second = scored_run(tmp_path / "one"), scored_run(tmp_path / "two")
    (second / "scores.csv").unlink()
    start = start_of(report.compare([first, second], tmp_path / "out"))
    assert [score["name"] for score in start["scores"]][3:] == ["simulation", "my_score"]
    sides = start["layers"][0]["sides"]
    assert sides[0]["c"][3] == [0.25, 0.125] and sides[1]["c"][3] is None  # the dead unit isn't
    assert sides[1]["c"][0] == [0.25, 0.75]
    labels = tmp_path / "labels.csv"
    labels.write_text("layer,unit,description\na,0,cat\n")
    start = start_of(report.compare([first, labels], tmp_path / "labels"))
    assert start["layers"][0]["sides"][1]["c"] == [None] * 5


def test_confidence_may_be_a_column_of_the_descriptions(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "run")
    table = pd.read_csv(folder / "descriptions.csv", keep_default_na=False)
    table.assign(confidence=[0.5, 0.75, "", 1]).to_csv(folder / "descriptions.csv", index=False)
    assert unit_of(load(folder), "a/1").scores["confidence"] == 0.75
    # A column of scores.csv replaces it.
    scores = pd.DataFrame({"layer": "a", "unit": [0, 1], "confidence": [0.1, 0.2]})
    write_table(folder / "scores.csv", scores)
    run = load(folder)
    assert run.score_names[-1] == "confidence" and run.scores["scored"].eq("").all()
    assert unit_of(run, "a/1").scores["confidence"] == 0.2
    assert "confidence" not in unit_of(run, "b/0").scores


def test_ground_truth_is_independent_of_scores(tmp_path: Path) -> None:
    folder = scored_run(tmp_path / "run")
    assert load(folder).ground_truth("a") is None
    units = pd.read_csv(folder / "units.csv").assign(
        truth=["cat", "cow", "", "dog"], rank=[1, 3, np.nan, 1]
    )
    write_table(folder / "units.csv", units)  # as final_layer writes it
    run = load(folder)
    known = run.ground_truth("a")
    assert known is not None and known["right"].tolist() == [1.0, 0.0, 0.0]
    assert "rank" not in run.score_names and unit_of(run, "a/0").scores["clarity"] == 0.25


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("unit,simulation\n0,0.5\n", "scores.csv has no column layer"),
        ("layer,simulation\na,0.5\n", "scores.csv has no column unit"),
        ("layer,unit,simulation\na,first,0.5\n", r"scores.csv can't be read"),
    ],
)
def test_unreadable_scores(tmp_path: Path, text: str, says: str) -> None:
    folder = scored_run(tmp_path / "run")
    (folder / "scores.csv").write_text(text)
    with pytest.raises(DissectError, match=says):
        load(folder)


def test_show_prints_known_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = scored_run(tmp_path / "run")

    def said_of(unit: str) -> str:
        monkeypatch.setattr(sys, "argv", ["clipdissect", "show", str(folder), unit])
        cli.main()
        return " ".join(capsys.readouterr().out.split())

    said = said_of("a/0")
    assert "clarity 0.250 polysemanticity 0.100 redundancy 1.000 simulation 0.250" in said
    assert "scores are of cats" in said and "my score" not in said
    assert "my score 2000.000" in said_of("a/1")
    assert "clarity" not in said_of("a/2") and "scores are of" not in said_of("b/0")
