"""Metrics and printed tables of latents of sparse autoencoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from clipdissect.app.printing import show_run
from clipdissect.evaluation.layers import layer_metrics, null_metrics, unit_means
from clipdissect.results.tables import ResultTables


def latents() -> pd.DataFrame:
    """Two latents that fire often, two rare ones with the highest scores, and two dead ones."""
    nan = np.nan
    return pd.DataFrame(
        {
            "layer": "b{sae}",
            "unit": range(6),
            "description": ["cat", "dog", "moon", "sun", "", ""],
            "similarity": [1.0, 2.0, 9.0, 8.0, nan, nan],
            "margin": [0.1, 0.2, 3.0, 3.0, nan, nan],
            "unit_flags": [(), (), ("rare",), ("rare", "tied"), ("dead",), ("dead",)],
            "fires": [50, 40, 1, 2, 0, 0],
            "density": [0.02, 0.01, 0.001, 0.001, 0.0, 0.0],
            "null_similarity": [1.5, 1.0, 9.5, 7.0, nan, nan],
        }
    )


def test_rare_latents_are_counted_and_left_out_of_the_null() -> None:
    found = layer_metrics(latents())
    assert (found["units"], found["dead"], found["rare"], found["tied"]) == (6, 2, 2, 1)
    assert found["alive"] == 4 and found["mean_density"] == pytest.approx(0.008)
    assert found["null_95"] == pytest.approx(1.475) and found["above_null"] == 0.5
    assert found["different_descriptions"] == 4


def test_layers_without_latents_have_neither() -> None:
    plain = latents().drop(columns=["fires", "density"])
    assert not {"alive", "mean_density"} & layer_metrics(plain).keys()
    beside = latents().assign(fires=np.nan, density=np.nan)  # in one table with latents
    assert not {"alive", "mean_density"} & layer_metrics(beside).keys()
    assert layer_metrics(plain)["rare"] == 2


def test_nothing_alive_has_reasons() -> None:
    found = layer_metrics(latents().iloc[4:])
    assert (found["alive"], found["mean_density"]) == (0, None)
    assert found["mean_density_reason"] == "no latent fires"
    rare = null_metrics(latents().iloc[2:4])
    assert rare["null_95"] is None and rare["null_95_reason"]


def unit_numbers() -> pd.DataFrame:
    nan = np.nan
    numbers = {"clarity": [0.25, 0.75, nan], "polysemanticity": 0.5, "redundancy": [nan, 1.0, 0.9]}
    return pd.DataFrame({"layer": "b{sae}", "unit": range(3), **numbers, "monosemanticity": nan})


def test_means_of_numbers_without_labels() -> None:
    means = unit_means(unit_numbers())
    assert list(means) == ["clarity", "polysemanticity", "redundancy", "monosemanticity"]
    assert means["clarity"] == {"units": 2, "value": 0.5, "low": 0.25, "high": 0.75}
    assert means["polysemanticity"] == {"units": 3, "value": 0.5, "low": 0.5, "high": 0.5}
    assert (means["redundancy"]["units"], means["redundancy"]["value"]) == (2, 0.95)
    assert means["monosemanticity"]["value"] is None and means["monosemanticity"]["reason"]


def test_printed_means(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"layers": {"b{sae}": layer_metrics(latents()) | unit_means(unit_numbers())}}
    run = {"probe": {"skipped": []}, "computed": [], "notes": [], "seconds": {}}
    show_run(ResultTables(latents(), latents(), run), metrics, Path("run"), 0)
    line = "b{sae}: clarity 0.500, polysemanticity 0.500, redundancy 0.950"
    assert line in capsys.readouterr().out.splitlines()


def printed(rows: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> list[str]:
    top = pd.DataFrame({"layer": "b{sae}", "unit": [0, 2, 3], "rank": 1, "image": "x/y.png"})
    metrics: dict[str, Any] = {"layers": {"b{sae}": layer_metrics(rows)}}
    run = {"probe": {"skipped": []}, "computed": [], "notes": [], "seconds": {}}
    show_run(ResultTables(rows, top, run), metrics, Path("run"), 5)
    return capsys.readouterr().out.splitlines()


def test_printed_latents_are_neither_dead_nor_rare(capsys: pytest.CaptureFixture[str]) -> None:
    title, header, *lines = printed(latents(), capsys)
    assert (
        title.strip()
        == "b{sae}: 6 latents, 2 dead, 4 alive (2 of them rare), 4 different descriptions"
    )
    assert header.split()[:3] == ["unit", "similarity", "fires"]
    rows = [line.split()[:4] for line in lines[:2]]
    assert rows == [["1", "2.000", "40", "dog"], ["0", "1.000", "50", "cat"]]
    assert lines[2].startswith("b{sae}: 50.0 % of latents neither dead nor rare score above")


def test_printed_units_have_no_column_of_latents(capsys: pytest.CaptureFixture[str]) -> None:
    plain = latents().drop(columns=["fires", "density"]).assign(unit_flags=[()] * 5 + [("dead",)])
    title, header, *_ = printed(plain, capsys)
    assert title.strip() == "b{sae}: 6 units, 1 dead, 5 different descriptions"
    assert "fires" not in header
