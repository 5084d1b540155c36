"""Trackers, read back from what they wrote."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb_records
from PIL import Image
from tiny import write_colours

from clipdissect import probe, tracking
from clipdissect.errors import DissectError
from clipdissect.probe.thumbnails import Thumbnails
from clipdissect.tracking import Finished, wandb_run

METRICS = {
    "layers": {"fc": {"units": 3, "dead": 0}},
    "final_layer": {"top1": 0.5, "cos": None, "cos_reason": "no encoder"},
}
FACTS = {
    "seconds": {"load": 1.5, "images": 2.0},
    "versions": {"torch": "2"},
    "machine": {"cores": 2},
}


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No account of wandb's, no settings of the user's, another current folder."""
    home = tmp_path / "home"
    (tmp_path / "here").mkdir()
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(home))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "NETRC", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def run(tmp_path: Path) -> Finished:
    """A complete run of three units, job 1 of a multirun."""
    folder = tmp_path / "results" / "1"
    write_colours(tmp_path / "images", shades=1)
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("- top=3\n")
    (folder / "run.json").write_text(json.dumps(FACTS))
    (folder / "report.html").write_text("<p>all</p>")
    Image.new("RGB", (9, 9)).save(folder / "curve.png")
    pd.DataFrame(
        {
            "layer": "fc",
            "unit": [0, 1, 2],
            "description": ["red", "nan", ""],
            "similarity": [1.0, 2.0, None],
            "description_2": ["x", "y", ""],
            "similarity_2": [0.5, 1.0, None],
            "margin": [0.5, 1.0, None],
            "unit_flags": ["", "", "dead"],
        }
    ).to_csv(folder / "descriptions.csv", index=False)
    pd.DataFrame(
        {
            "layer": "fc",
            "unit": [0, 0, 1, 1, 2, 2],
            "rank": [1, 2] * 3,
            "image": ["red0.png", "blue0.png", "green0.png", "none.png", "red0.png", "blue0.png"],
            "activation": 1.0,
        }
    ).to_csv(folder / "top_images.csv", index=False)
    images = probe.build("folder", root=str(tmp_path / "images"))
    return Finished(folder, {"top": 3}, METRICS, "dissect", ("top=3",), "group-7", 1, images)


def test_none_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    tracking.build("none")(Finished(folder, {}, METRICS))
    assert list(folder.iterdir()) == []


def test_csv_adds_a_row_a_run(tmp_path: Path, run: Finished) -> None:
    track = tracking.build("csv")
    track(run)
    track(Finished(run.folder.parent / "2", {}, {"extra": 1, **METRICS}))
    with (run.folder.parent / "runs.csv").open(newline="") as source:
        rows = list(csv.DictReader(source))
    assert [Path(r["run"]).name for r in rows] == ["1", "2"]
    assert rows[1]["final_layer/top1"] == "0.5"
    assert (rows[0]["extra"], rows[1]["extra"]) == ("", "1")
    assert (rows[0]["seconds/load"], rows[0]["overrides"]) == ("1.5", "top=3")
    assert "final_layer/cos" not in rows[0]
    assert rows[0]["final_layer/cos_reason"] == "no encoder"


def add_rows(folder: Path, name: str) -> None:
    """What a process of its own does."""
    for i in range(20):
        tracking.build("csv")(Finished(folder / f"{name}-{i}", {}, {"value": i}))


def test_csv_rows_of_simultaneous_runs_are_all_there(tmp_path: Path) -> None:
    processes = get_context("fork")
    started = [processes.Process(target=add_rows, args=(tmp_path, name)) for name in "abc"]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0, 0, 0]
    with (tmp_path / "runs.csv").open(newline="") as source:
        names = {Path(row["run"]).name for row in csv.DictReader(source)}
    assert names == {f"{name}-{i}" for name in "abc" for i in range(20)}


def near(one: Any, other: Any) -> bool:
    """Whether two colours are the same but for the compression."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < 9


def logged(folder: Path) -> wandb_records.Records:
    (path,) = folder.rglob("*.wandb")
    return wandb_records.read(path)


def test_wandb_offline_run_read_back(run: Finished, tmp_path: Path) -> None:
    tracking.build("wandb", project="tests", mode="offline", tags=["mine"])(run)
    records = logged(run.folder)
    about = records.run
    assert (about.project, about.run_group, about.job_type) == ("tests", "group-7", "dissect")
    assert about.display_name == "group-7-1"
    assert list(about.tags) == ["mine"]
    assert records.config["top"] == 3
    assert records.config["run"]["versions"] == {"torch": "2"}
    assert records.config["run"]["machine"] == {"cores": 2}
    assert records.history["final_layer/top1"] == 0.5
    assert records.history["layers/fc/units"] == 3
    assert records.history["seconds/images"] == 2.0
    assert "final_layer/cos" not in records.history
    assert records.history["figures/curve/_type"] == "image-file"
    assert records.history["descriptions/nrows"] == 3
    own = next(a for a in records.artifacts if a.name.startswith("dissect-"))
    assert {entry.path for entry in own.manifest.contents} >= {
        "descriptions.csv",
        "top_images.csv",
        "run.json",
        "report.html",
        "curve.png",
        ".hydra/overrides.yaml",
    }
    assert not any(entry.path.startswith("wandb") for entry in own.manifest.contents)
    # All of it is in the run's folder: nothing in the current one or in the home.
    assert list((tmp_path / "here").iterdir()) == []
    assert not [p for p in (tmp_path / "home").rglob("*") if p.is_file() and p.suffix != ".log"]


def test_wandb_table_of_descriptions_with_top_images(run: Finished) -> None:
    tracking.build("wandb", mode="offline", units=2, thumbnails=2)(run)
    (artifact,) = [a for a in logged(run.folder).artifacts if a.type == "run_table"]
    files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
    table = json.loads(files["descriptions.table.json"].read_text())
    assert table["columns"] == [
        "layer",
        "unit",
        "description",
        "similarity",
        "description_2",
        "margin",
        "unit_flags",
        "top images",
    ]
    assert [row[:4] for row in table["data"]] == [["fc", 0, "red", 1.0], ["fc", 1, "nan", 2.0]]
    for row, left in zip(table["data"], [(255, 0, 0), (0, 255, 0)], strict=True):
        with Image.open(files[row[-1]["path"]]) as strip:
            assert strip.size == (192, 96)
            assert near(strip.getpixel((48, 48)), left)


def test_wandb_run_id_of_a_multirun_has_the_jobs_number(run: Finished) -> None:
    tracking.build("wandb", mode="offline", run_id="mine", thumbnails=0)(run)
    assert logged(run.folder).run.run_id == "mine-1"


def test_wandb_without_a_key_is_offline_and_never_asks(
    run: Finished, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "clipdissect"):
        tracking.build("wandb", mode="online", thumbnails=0)(run)
    assert "no API key" in caplog.text
    assert "wandb sync" in caplog.text
    assert logged(run.folder).run.run_id


def test_wandb_goes_on_offline_where_there_is_no_server(
    run: Finished, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(wandb_run, "PATIENCE", 1)
    tracking.build("wandb", thumbnails=0)(run)
    assert "no online run" in caplog.text
    assert [r for p in run.folder.rglob("offline-run-*/*.wandb") if (r := wandb_records.read(p))]


def test_wandb_key_is_found_in_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Settings:
        api_key, base_url = None, "https://example.org/"

    assert not wandb_run._has_key(Settings)
    (tmp_path / "netrc").write_text("machine example.org login user password x\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_run._has_key(Settings)


def test_wandb_disabled_does_nothing(run: Finished) -> None:
    before = sorted(run.folder.rglob("*"))
    tracking.build("wandb", mode="disabled")(run)
    assert sorted(run.folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"mode": "on"}, "offline, online, disabled"),
        ({"thumbnails": -1}, "tracking.thumbnails"),
        ({"units": -1}, "tracking.units"),
    ],
)
def test_wandb_parameters_are_checked_before_any_work(
    parameters: dict[str, Any], says: str
) -> None:
    with pytest.raises(DissectError, match=says):
        tracking.build("wandb", **parameters)


def test_thumbnails_are_decoded_once(tmp_path: Path) -> None:
    write_colours(tmp_path / "images", shades=1)
    first = Thumbnails(probe.build("folder", root=str(tmp_path / "images")), side=8)
    strip = first.strip(["red0.png", "nowhere.png", "green0.png"])
    assert strip.size == (24, 8)
    red, grey, green = (strip.getpixel((x, 4)) for x in (4, 12, 20))
    assert near(red, (255, 0, 0))
    assert grey == (128, 128, 128)
    images = first.probe
    shutil.rmtree(tmp_path / "images")
    again = Thumbnails(images, side=8).strip(["red0.png", "green0.png"])
    assert near(again.getpixel((12, 4)), green)
