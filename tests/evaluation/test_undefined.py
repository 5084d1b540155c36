"""Undefined numbers in what runs write: null with a reason in JSON, and nothing is lost."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from test_runtime import facts, made_pieces, made_rounds

from clipdissect.app import build as parts
from clipdissect.app import launch
from clipdissect.app.comparison import table as comparing
from clipdissect.app.evaluation_job import write_evaluation
from clipdissect.app.runtime import report as runtime_report
from clipdissect.report.report_data import ReportData, compact_json, read_report_data
from clipdissect.results import run_files
from clipdissect.studies import figures
from clipdissect.tracking import Finished, build
from clipdissect.utils.figures import save_figure
from clipdissect.utils.timing import Timers

NAN, INF = math.nan, math.inf
# As a runner might hand it on: of Python, of NumPy, in lists and in lists of mappings.
METRICS = {
    "a": {"value": NAN, "low": -INF, "count": np.int64(3)},
    "half": np.float32(0.5),
    "cos": np.float64(NAN),
    "known": NAN,
    "known_reason": "no word",
    "each": [1.0, NAN],
    "rows": [{"exponent": INF}, {"exponent": 2.0}],
    "array": np.array([1.5]),
}


def strict(path: Path) -> Any:
    """A JSON file's values, as a reader in another language takes them."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} isn't JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def check(found: dict[str, Any]) -> None:
    assert found["a"]["value"] is None
    assert "NaN" in found["a"]["value_reason"]
    assert found["a"]["low"] is None
    assert "not finite" in found["a"]["low_reason"]
    assert found["a"]["count"] == 3
    assert "count_reason" not in found["a"]
    assert found["half"] == 0.5
    assert (found["cos"], "NaN" in found["cos_reason"]) == (None, True)
    assert found["known_reason"] == "no word"
    assert found["each"] == [1.0, None]
    assert "NaN" in found["each_reason"]
    assert found["rows"][0]["exponent"] is None
    assert "not finite" in found["rows"][0]["exponent_reason"]
    assert found["rows"][1] == {"exponent": 2.0}
    assert found["array"] == [1.5]


def write_studies(folder: Path) -> Path:
    config = OmegaConf.create({"tracking": {"name": "none"}})
    parts.save(config, folder, {"units": pd.DataFrame({"x": [NAN]})}, METRICS, METRICS)
    assert (folder / "run.json").is_file()
    return folder / "metrics.json"


def write_final_layer(folder: Path) -> Path:
    units = pd.DataFrame({"similarity": [NAN]})
    result: Any = SimpleNamespace(
        descriptions=units, top_images=[], unit_metrics=pd.DataFrame(), run=METRICS
    )
    evaluation: Any = SimpleNamespace(units=SimpleNamespace(table=units), metrics=METRICS)
    write_evaluation(folder, result, evaluation)
    assert (folder / "run.json").is_file()
    return folder / "metrics.json"


def write_dissection(folder: Path) -> Path:
    run_files.write_result(folder, pd.DataFrame({"a": [NAN]}), pd.DataFrame({"a": [NAN]}), METRICS)
    return folder / "run.json"


def write_plainly(folder: Path) -> Path:
    run_files.write_json(folder / "search.json", METRICS)
    return folder / "search.json"


@pytest.mark.parametrize(
    "write", [write_plainly, write_dissection, write_final_layer, write_studies]
)
def test_writers_write_what_there_is(
    write: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "track", lambda *_: None)
    check(strict(write(tmp_path)))


def test_failures_are_written(tmp_path: Path) -> None:
    launch._write(tmp_path / "failure.json", launch.Failure("x", overrides=("a=nan",)))
    assert strict(tmp_path / "failure.json")["overrides"] == ["a=nan"]


def test_trackers_leave_undefined_numbers_out(tmp_path: Path) -> None:
    run = Finished(tmp_path / "run", {}, METRICS)
    assert {k for k in run.values if "value" in k} == {"a/value_reason"}
    assert all(v == v for v in run.values.values() if isinstance(v, float))
    build("csv")(run)
    with (tmp_path / "runs.csv").open(newline="") as source:
        (row,) = csv.DictReader(source)
    assert row["a/count"] == "3"
    assert "nan" not in row.values()


def test_report_data_have_nulls(tmp_path: Path) -> None:
    assert json.loads(compact_json({"a": [NAN, 1.0], "b": {"c": INF}})) == {
        "a": [None, 1.0],
        "b": {"c": None},
    }
    ReportData({"notes": []}, {}, {"fc": {"low": [NAN, 1.0]}}).write(tmp_path)
    assert read_report_data(tmp_path).layers["fc"]["low"] == [None, 1.0]


def test_runtime_with_one_size_no_units_and_no_time(tmp_path: Path) -> None:
    rounds = made_rounds()
    rounds.loc[rounds["method"] == "clip_dissect", "stage_similarity"] = 0.0
    rounds["images"] = rounds["images"].where(rounds["method"] == "plain")  # a file of labels
    lone = pd.DataFrame(
        {
            "axis": "pass",
            "images": 24,
            "seconds": [1.0, 2.0],
            "side": ["clip_dissect", "plain"],
            "repeat": 0,
        }
    )
    pieces = pd.concat([made_pieces(1.0, 10.0), lone], ignore_index=True)
    found = runtime_report.metrics(rounds, pieces, facts(), NAN)
    (ours, _) = (one for one in found["exponents"] if one["axis"] == "pass")
    assert (ours["exponent"], ours["exponent_reason"]) == (None, "only one size was measured")
    assert found["same_descriptions"] is None
    assert found["ratios"]["scoring (cold)"]["median"] is None
    assert found["ratios"]["cold"]["median"] == 4.0
    assert found["methods"]["clip_dissect"]["cold"]["images_per_s"] is None
    text = runtime_report.markdown(found, facts())
    assert "| pass | clip_dissect | 24 | 24 | only one size was measured |" in text
    assert "is unknown" in text
    assert "nan" not in text
    runtime_report.figure(found, pieces, tmp_path)
    run_files.write_json(tmp_path / "metrics.json", found)
    assert strict(tmp_path / "metrics.json") == found


def test_comparison_of_undefined_numbers(tmp_path: Path) -> None:
    row = {
        "concepts": "c",
        "setting": "default",
        "similarity": "wpmi",
        "probe": "p",
        "images": 3,
        "parameters": "",
        "units": 2,
        "metric": "top1",
        "value": 0.5,
        "low": None,
        "high": None,
        "best": "wpmi",
        "minus_best": 0.0,
        "minus_best_low": None,
        "minus_best_high": None,
    }
    table = comparing.as_frame([row])
    text = comparing.markdown(table, "wpmi")
    assert "| wpmi | 0.5000 [-, -] |" in text
    comparing.figure(table, tmp_path)
    run_files.write_json(tmp_path / "metrics.json", comparing.metrics(table))
    assert strict(tmp_path / "metrics.json")["comparison"][0]["low"] is None


def test_figures_draw_what_there_is(tmp_path: Path) -> None:
    values: list[dict[str, Any]] = [{"value": None}, {"value": 0.5, "low": 0.4, "high": 0.6}]
    assert np.isnan(figures.heights(values)[0])
    drawn, (axis,) = figures.plot(3, 3)
    axis.bar([0, 1], figures.heights(values), yerr=figures.bar_errors(values))
    save_figure(drawn, tmp_path, "bars")
    assert (tmp_path / "bars.png").stat().st_size > 300


def test_short_stages_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = (0.0003 * (n // 2 + n % 2) for n in range(2000))
    monkeypatch.setattr("clipdissect.utils.timing.clock", lambda: next(ticks))
    spent = Timers()
    for _ in range(500):
        with spent.stage("decode"):
            pass
    assert spent.seconds["decode"] == pytest.approx(0.15)


def test_short_stages_are_printed() -> None:
    assert [runtime_report._number(v) for v in (0.0, 0.0063, 0.5, 12.34, 123.4, None)] == [
        "0",
        "0.0063",
        "0.50",
        "12.3",
        "123",
        "",
    ]
