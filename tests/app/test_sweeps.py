"""Multiruns in this process and in others: failures are told, the other jobs finish."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import standin
from conftest import ROOT

from clipdissect.app.callbacks import Launched
from clipdissect.app.launch import FAILURE, UNFINISHED, launch
from clipdissect.app.sweep import Value, main_metrics
from clipdissect.app.sweep import report as sweep_report


def launched(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *arguments: str,
    runner: str = "standin",
    unused: Mapping[str, str] | None = None,
) -> int:
    """Exit code of the stand-in runner, run in this process and in `folder`."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["standin", *arguments])
    monkeypatch.setattr(Launched, "folder", None)
    for name in ("HYDRA_MAIN_MODULE", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "")  # put back what `launch` sets
    try:
        launch(standin.run, runner, unused or {})
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def elsewhere(folder: Path, *arguments: str, code: int) -> subprocess.CompletedProcess[str]:
    """The stand-in runner as a program, whose launcher starts others."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "standin.py"), "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def seen(folder: Path) -> list[dict[str, Any]]:
    paths = sorted((folder / "results" / "standin").rglob("seen.json"))
    return [json.loads(path.read_text()) for path in paths]


def failed(folder: Path) -> list[dict[str, Any]]:
    paths = sorted((folder / "results" / "standin").rglob(FAILURE))
    return [json.loads(path.read_text()) for path in paths]


def test_failed_jobs_are_named_with_their_own_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launched(monkeypatch, tmp_path, "-m", "top=1,3,4,2", "images=3") == 2
    printed = capsys.readouterr()
    assert "job 1 (top=3) error: three is too many" in printed.err
    assert "job 2 (top=4) error: ZeroDivisionError" in printed.err
    assert 'raise ZeroDivisionError("four")' in printed.err
    assert "Traceback" not in printed.err.split("job 1")[0]
    assert "job 3 (top=2)\ndone 3" in printed.out
    assert "* best of its column; by objective, tuning half: job 0 (top=1), job 3 (top=2)" in (
        printed.out
    )
    (table,) = (tmp_path / "results" / "standin").rglob("jobs.csv")
    rows = [line.split(",")[:4] for line in table.read_text().splitlines()[1:]]
    assert [row[:3] for row in rows] == [
        ["0", "done", "1"],
        ["1", "failed", "3"],
        ["2", "failed", "4"],
        ["3", "done", "2"],
    ]
    assert [facts["top"] for facts in seen(tmp_path)] == [1, 2]
    assert [failure["number"] for failure in failed(tmp_path)] == [1, 2]


def test_fault_alone_has_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched(monkeypatch, tmp_path, "-m", "top=1,4") == 1


def test_a_job_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launched(monkeypatch, tmp_path, "top=3") == 2
    assert capsys.readouterr().err.startswith("error: three is too many")
    assert launched(monkeypatch, tmp_path, "top=2") == 0
    assert len(failed(tmp_path)) == 1


def test_what_a_killed_process_leaves_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(code: int) -> None:
        raise SystemExit(code)  # as abrupt as a test's own process can take

    monkeypatch.setattr(standin.os, "_exit", dies)
    assert launched(monkeypatch, tmp_path, "top=9") == 9
    assert [failure["message"] for failure in failed(tmp_path)] == [UNFINISHED]


def test_jobs_of_a_multirun_share_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("-m", "top=1,3,2", "tracking=csv", "hydra.sweep.dir=results/standin/mine")
    assert launched(monkeypatch, tmp_path, *given) == 2
    with (tmp_path / "results" / "standin" / "mine" / "runs.csv").open(newline="") as source:
        rows = list(csv.DictReader(source))
    assert [Path(row["run"]).name for row in rows] == ["0", "2"]
    assert ["top=1" in row["overrides"].split() for row in rows] == [True, False]
    assert all(row["objective/report_units"] == "3" for row in rows)


def test_failed_tracking_loses_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine" / "runs.csv").mkdir(parents=True)  # where the table should go
    given = ("-m", "top=1,2", "tracking=csv", "hydra.sweep.dir=mine")
    assert launched(monkeypatch, tmp_path, *given) == 0
    assert caplog.text.count("tracking=csv failed") == 2
    assert "the run's files are complete" in caplog.text
    assert len(list((tmp_path / "mine").rglob("metrics.json"))) == 2
    assert not list((tmp_path / "mine").rglob(FAILURE))


def job(folder: Path, overrides: list[str], metrics: Mapping[str, Any]) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
    (folder / "metrics.json").write_text(json.dumps(metrics))


def final_layer(top1: float, mean_rank: float) -> dict[str, Any]:
    interval = {"low": top1 - 0.125, "high": top1 + 0.125}
    final = {"layer": "fc", "units": 8, "top1": top1, "mean_rank": mean_rank}
    return {"final_layer": final, "intervals": {"top1": interval}}


def test_table_shows_what_differs_and_marks_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, values in enumerate([(0.25, 9.0), (0.5, 4.0), (0.25, 2.0)]):
        job(tmp_path / str(number), ["images=5", f"similarity.a={number}"], final_layer(*values))
    sweep_report(tmp_path)
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert printed[0] == ["job", "similarity.a", "top1", "mean", "rank"]
    assert printed[2] == ["1", "1", "0.5000", "[0.3750,", "0.6250]", "*", "4.0000"]
    assert printed[3] == ["2", "2", "0.2500", "[0.1250,", "0.3750]", "2.0000", "*"]
    lines = (tmp_path / "jobs.csv").read_text().splitlines()
    assert lines[0] == "job,status,similarity.a,top1,top1 low,top1 high,mean_rank,failure"
    assert lines[2] == "1,done,1,0.5,0.375,0.625,4,"


def test_of_many_jobs_the_best_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(25):
        job(tmp_path / str(number), [f"similarity.a={number}"], final_layer(number / 32, 1.0))
    sweep_report(tmp_path)
    out = capsys.readouterr().out
    assert out.splitlines()[1].split()[:2] == ["24", "24"]
    assert "20 of 25 jobs are shown" in out
    assert "by top1: job 24 (similarity.a=24)" in out


def test_metrics_of_every_runner_are_compared() -> None:
    score = {"units": 2, "value": 0.5, "low": 0.25, "high": 0.75, "controls": {}}
    layers = {"a": {"simulation": score | {"value": 0.125}}, "all layers": {"simulation": score}}
    assert main_metrics({"layers": layers}) == {"simulation": Value(0.5, 0.25, 0.75)}
    facts = {"units": 4, "different_descriptions": 3, "above_null": 0.5}
    assert main_metrics({"layers": {"a": facts, "b": facts}, "final_layer": {}}) == {
        "a: above_null": Value(0.5),
        "a: different_descriptions": Value(3),
        "b: above_null": Value(0.5),
        "b: different_descriptions": Value(3),
    }
    study = {"weight_similarity": {"layer": "x", "all_pairs": {"pearson_r": 0.25}}}
    assert main_metrics(study) == {"weight_similarity/all_pairs/pearson_r": Value(0.25)}


def test_joblib(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra `sweep`")
    done = elsewhere(
        tmp_path, "top=1,3,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", code=2
    )
    assert "job 1 (top=3) error: three is too many" in done.stderr
    assert "Traceback" not in done.stderr
    facts = seen(tmp_path)
    assert [job["top"] for job in facts] == [1, 2]
    # Two jobs at a time share the cores.
    assert {job["threads"] for job in facts} == {max(1, (os.cpu_count() or 1) // 2)}


def test_submitit(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra `sweep`")
    done = elsewhere(tmp_path, "top=3,2", "hydra/launcher=submitit_local", code=2)
    assert "job 0 (top=3) error: three is too many" in done.stderr
    assert f"multirun: {Path('results')}" in done.stdout
    assert [job["top"] for job in seen(tmp_path)] == [2]


def test_settings_that_a_runner_does_not_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unused = {"probe": "set comparison.probes"}
    for given in ("probe=stamps", "probe.limit=5", "+probe.more=1"):
        assert launched(monkeypatch, tmp_path, given, unused=unused) == 2
        assert f"{given} does nothing in standin: set comparison.probes" in capsys.readouterr().err
    assert launched(monkeypatch, tmp_path, "top=2", unused=unused) == 0
