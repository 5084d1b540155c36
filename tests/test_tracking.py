"""Trackers, read back from what they wrote."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import pytest

from clipdissect import tracking
from clipdissect.errors import DissectError

METRICS = {"layers": {"fc": {"units": 3, "dead": 0}}, "final_layer": {"top1": 0.5}}


def test_none_writes_nothing(tmp_path: Path) -> None:
    tracking.build("none")(tmp_path, {}, METRICS)
    assert list(tmp_path.iterdir()) == []


def test_csv_adds_a_row_a_run(tmp_path: Path) -> None:
    track = tracking.build("csv")
    track(tmp_path / "one", {}, METRICS)
    track(tmp_path / "two", {}, {"extra": 1, **METRICS})
    with (tmp_path / "runs.csv").open(newline="") as source:
        rows = list(csv.DictReader(source))
    assert [Path(r["run"]).name for r in rows] == ["one", "two"]
    assert rows[1]["final_layer/top1"] == "0.5"
    assert (rows[0]["extra"], rows[1]["extra"]) == ("", "1")


def test_wandb_offline_keeps_the_run_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    folder = tmp_path / "run"
    folder.mkdir()
    tracking.build("wandb", project="tests")(folder, {"top": 5}, METRICS)
    records = list(folder.rglob("*.wandb"))
    assert len(records) == 1
    content = b""
    for _ in range(100):  # the last record may reach the disk a moment after finish() returns
        content = records[0].read_bytes()
        if b"final_layer/top1" in content:
            break
        time.sleep(0.1)
    assert b"final_layer/top1" in content
    assert b"tests" in content


def test_wandb_mode_is_checked_before_any_work() -> None:
    with pytest.raises(DissectError, match="offline, online, disabled"):
        tracking.build("wandb", mode="on")
