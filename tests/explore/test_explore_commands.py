"""The commands explain and diff on runs' folders, whose configs name the network and images."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from score_runs import WORDS, tiny_target, write_squares
from tiny import ColourEncoder

import clipdissect
from clipdissect.app import build as parts
from clipdissect.app.commands import diff, explain
from clipdissect.capture.settings import Settings
from clipdissect.results.run_files import write_text

Command = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of all images, with its overrides."""
    images = tmp_path / "images"
    write_squares(images)
    target = tiny_target()
    monkeypatch.setitem(parts.BUILDERS, "target", lambda **_: target)
    parts._parts["target"]._results.clear()
    result = clipdissect.dissect(
        target,
        probe={"name": "folder", "root": str(images)},
        concepts=list(WORDS),
        encoder=ColourEncoder(),
        similarity={"name": "soft_wpmi", "top_k": 10},
        settings=Settings(device="cpu", workers=0),
        store=tmp_path / "store",
    )
    folder = result.save(tmp_path / "run")
    overrides = ("probe=folder", f"probe.root={images}", "capture.workers=0", "capture.device=cpu")
    write_text(folder / ".hydra" / "overrides.yaml", "".join(f"- {o}\n" for o in overrides))
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Call a command's main; return its output, or its error."""

    def call(main: Callable[[], None], *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["clipdissect", *map(str, arguments)])
        try:
            main()
        except SystemExit as error:
            assert error.code == 2
            return capsys.readouterr().err
        return capsys.readouterr().out

    return call


def test_explain(run: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    page = run.parent / "page.html"
    image = run.parent / "images" / "blue" / "00.png"
    text = command(explain.main, run, "--image", image, "--top", "1", "--html", page)
    lines = text.splitlines()
    assert lines[0].rstrip() == "conv: most unusual activations on blue/00.png"
    conv = lines[2].split()
    assert [text for text in conv if text != "(?)"][:3] == ["2", "blue", "1"]
    assert "above all 161 images" in text and "prediction: blue (probability 0." in text
    assert "note: no contributions of layers conv, head, as the linear layer" in text
    assert "<body data-ready>" in page.read_text()
    assert "unknown layer 'fc'" in command(explain.main, run, "--image", image, "--layer", "fc")
    target = tiny_target(0.1)
    monkeypatch.setitem(parts.BUILDERS, "target", lambda **_: target)
    parts._parts["target"]._results.clear()
    error = command(explain.main, run, "--image", image)
    assert error.startswith("error: run is of another network than target tiny is now")
    (run / ".hydra" / "overrides.yaml").unlink()
    assert "has no .hydra/overrides.yaml" in command(explain.main, run, "--image", image)
    (run / "run.json").unlink()
    assert "can't be used: the run isn't complete" in command(explain.main, run, "--image", image)


def test_diff(run: Path, command: Command) -> None:
    table = pd.read_csv(run / "descriptions.csv", dtype=str, keep_default_na=False)
    other = run.parent / "other"
    (other / ".hydra").mkdir(parents=True)
    for name in ("top_images.csv", "run.json", ".hydra/overrides.yaml"):
        write_text(other / name, (run / name).read_text().replace(" 0.1", " 0.2"))
    moved = table.assign(description=["cyan", *table["description"][1:]])
    moved.to_csv(other / "descriptions.csv", index=False)
    csv = run.parent / "units.csv"
    text = command(diff.main, run, other, "--sentence", "none", "--csv", csv)
    # The images are the same, so that the description alone changed.
    assert "conv: 4 units, 0 changed (0 %), 1 similar, 3 same\n" in text
    assert "head: 4 units, 0 changed (0 %), 4 same\n" in text
    assert "more units: cyan (0 to 1)\nfewer units: red (2 to 1)\n" in text
    assert "note: both runs are of the same network" in text
    written = pd.read_csv(csv)
    assert written.loc[0, ["kind", "description", "other_description"]].tolist() == [
        *("similar", "red", "cyan")
    ]
    text = command(diff.main, run, other, "--sentence", "none", "--match", "correlation")
    assert "conv: 4 units, 0 changed (0 %), 1 similar, 3 same\n" in text
    error = command(diff.main, run, other, "--match", "name", "--sentence", "none")
    assert error.startswith("error: match is 'name'; it can be index or correlation")


def test_diff_lists_what_changed(run: Path, command: Command) -> None:
    labels = run.parent / "labels.csv"
    labels.write_text("layer,unit,description\nconv,0,red\nconv,1,a [long] text\n")
    other = run.parent / "others.csv"
    other.write_text("layer,unit,description\nconv,0,red\nconv,1,green\n")
    text = command(diff.main, labels, other, "--sentence", "none")
    assert "units whose meaning changed: 1" in text and "a [long] text" in text
    assert "conv: 2 units, 1 changed (50 %), 1 same\n" in text


def test_folders_that_are_no_file_or_no_run(tmp_path: Path, command: Command) -> None:
    for main, *options in (
        (diff.main, "a", "b", "--csv"),
        (explain.main, "a", "--image=b", "--html"),
    ):
        error = command(main, *options, tmp_path)
        assert f"argument {options[-1]}: {tmp_path} is a folder: name a file" in error
    with pytest.raises(IsADirectoryError, match=f"Is a directory: '{tmp_path}'"):
        write_text(tmp_path, "")
    job = tmp_path / "sweep" / "0"
    write_text(job / ".hydra" / "overrides.yaml", "- a=1\n")
    write_text(tmp_path / "sweep" / "multirun.yaml", "")
    expected = f"error: {job.parent} is a multirun: name one of its jobs, such as {job}\n"
    assert command(explain.main, job.parent, "--image", "b") == expected
