"""Panels of units beside the labels of several methods, on tiny stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from study_runs import Study, facts, no_images, tiny_target
from study_runs import study as study  # the fixture
from tiny import write_colours

from clipdissect import probe
from clipdissect.concepts import of_list
from clipdissect.errors import DissectError
from clipdissect.studies import build
from clipdissect.studies.qualitative import choose
from experiments import qualitative as runner

RANKS = pd.DataFrame({"layer": "a", "unit": [0, 1, 2, 3], "similarity": [0.1, None, 0.9, 0.5]})


def chosen(**settings: Any) -> list[tuple[str, int]]:
    return choose(build("qualitative", **settings), ["a"], {"a": 4}, RANKS)


def test_units_are_chosen() -> None:
    assert chosen(select="interpretable", count=2) == [("a", 2), ("a", 3)]
    assert chosen(select="listed", units=["a:3", "a:0"]) == [("a", 3), ("a", 0)]
    assert chosen(count=9) == [("a", 0), ("a", 1), ("a", 2), ("a", 3)]
    assert chosen(count=2) == chosen(count=2)
    assert len({tuple(chosen(count=2, seed=seed)) for seed in range(20)}) > 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"select": "best"}, "random or interpretable or listed"),
        ({"select": "listed"}, "goes with"),
        ({"units": ["a:1"]}, "goes with"),
        ({"select": "listed", "units": ["a"]}, "written as"),
        ({"select": "listed", "units": ["b:1"]}, "unknown layer"),
        ({"count": 0}, "at least 1"),
        ({"select": "listed", "units": ["a:4"]}, "no unit 4"),
        ({"rank_by": "x"}, "unknown method"),
        ({"labels": {"ours": {}}}, "is taken"),
        ({"labels": "x"}, "must name methods"),
    ],
)
def test_wrong_settings_are_told(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        chosen(**settings)


def run(study: Study, tmp_path: Path, *overrides: str) -> Path:
    write_colours(tmp_path / "images")
    return study(
        runner,
        tiny_target(("red", "green", "blue", "x"), ["conv"]),
        "experiment=qualitative",
        "target.layers=[conv]",
        "similarity.top_k=4",
        "study.unit_table=0",
        *overrides,
        probe=probe.build("folder", root=str(tmp_path / "images")),
        concepts=of_list(["red", "green", "blue", "cyan"]),
    )


def test_papers_preset_runs(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("layer,unit,description,iou\nhead,0,green,0.5\nconv,1,dots,0.1\n")
    folder = run(
        study, tmp_path, f"study.labels={{other: {{path: {path}, similarity_column: iou}}}}"
    )
    table = pd.read_csv(folder / "qualitative.csv", keep_default_na=False)
    assert list(table["ours"][:4]) == ["red", "green", "blue", ""]
    assert list(table["other"][:4]) == ["", "dots", "", ""]
    judged = facts(folder)["qualitative"]["unit_table"]
    assert judged["truth"] == "red"
    assert judged["methods"]["ours"] == {"label": "red", "mpnet_cos": 1.0}
    assert judged["methods"]["other"] == {"label": "green", "mpnet_cos": 0.0}
    assert "weights of clip_vit_b16" in judged["clip_vit_b16_cos_reason"]
    assert (folder / "qualitative.png").stat().st_size > 1000
    best = run(
        study,
        tmp_path,
        "study.select=interpretable",
        "study.count=1",
        f"study.labels={{other: {{path: {path}, similarity_column: iou}}}}",
        "study.rank_by=other",
    )
    assert pd.read_csv(best / "qualitative.csv")["unit"][0] == 1


def test_units_of_other_layers_arent_shown_unless_listed(study: Study, tmp_path: Path) -> None:
    folder = run(study, tmp_path)
    assert set(pd.read_csv(folder / "qualitative.csv")["layer"]) == {"conv"}  # the table is head's
    folder = run(study, tmp_path, "study.select=listed", "study.units=['head:1']")
    assert list(pd.read_csv(folder / "qualitative.csv")["layer"]) == ["head"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["study.unit_table=7"], "units 0 to 3"),
        (["study.unit_table=-1"], "units 0 to 3"),
        (["study.select=listed", "study.units=['relu:0']"], "unknown layer"),
        (["study.select=listed", "study.units=['head:4']"], "no unit 4"),
        (
            [
                "study.select=interpretable",
                "study.labels={other: {path: LABELS}}",
                "study.rank_by=other",
            ],
            "no scores of layer conv",
        ),
    ],
)
def test_mistakes_are_told_before_any_image(
    overrides: list[str], says: str, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("layer,unit,description\nconv,1,dots\n")
    monkeypatch.setattr("clipdissect.studies.features.capture_features", no_images)
    with pytest.raises(DissectError, match=says):
        run(study, tmp_path, *(text.replace("LABELS", str(path)) for text in overrides))
