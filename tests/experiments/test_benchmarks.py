"""The GPU benchmark in a reduced form on the CPU."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from clipdissect.app.runtime.microbenchmarks import processor

SCRIPTS = Path(__file__).parents[2] / "scripts"
SMALL = ["--device", "cpu", "--images", "2", "--concepts", "12", "--repeats", "1"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "argv", ["benchmark_gpu", *arguments])
    importlib.import_module("benchmark_gpu").main()


def test_whole_benchmark_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ["--scoring-images", "60", "--units", "6", "--plain-rank-units", "3"]
    run(monkeypatch, *SMALL, *sizes, "--out", str(tmp_path))
    [numbers], [table] = tmp_path.glob("*.json"), tmp_path.glob("*.md")
    written: dict[str, Any] = json.loads(numbers.read_text())
    assert written["card"] == processor()
    rows = {row["what"]: row for row in written["rows"]}
    for case in ("SoftWPMI", "WPMI", "WPMI, eps=0", "rank reorder"):
        row = rows[f"scoring, {case}"]
        assert row["ratio"] == row["plain"] / row["ours"]
        units = 3 if case == "rank reorder" else 6
        assert row["note"].startswith(f"same best concept for {units} of {units} units")
    for what in ("decoding, decode=fast", "forward, resnet50", "forward, ViT-B-16"):
        assert rows[what]["bare"] > 0
    job = rows["whole job, empty store, 2 images, decode=fast"]
    assert job["note"].endswith("of 3904 units")
    assert rows["whole job, features stored, 2 images, decode=fast"]["ours"] < job["ours"]
    assert all(row["what"] in table.read_text() for row in written["rows"])


def test_unknown_section(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "--only", "scoring,dekoding")
    assert stopped.value.code == 2
    assert "'dekoding'; valid: scoring, decoding, networks, jobs" in capsys.readouterr().err
