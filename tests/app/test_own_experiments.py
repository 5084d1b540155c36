"""A project that has a package `experiments` of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clipdissect import targets
from clipdissect.errors import DissectError

NET = """
from torch import nn
from experiments.sizes import WIDTH

def build():
    return nn.Conv2d(3, WIDTH, 1)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    own = tmp_path / "experiments"
    own.mkdir()
    (own / "__init__.py").write_text("")
    (own / "dissect.py").write_text(NET)  # the name of one of our runners
    (own / "sizes.py").write_text("WIDTH = 5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in [n for n in sys.modules if n.partition(".")[0] == "experiments"]:
        monkeypatch.delitem(sys.modules, name)
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] == "experiments"]:
        del sys.modules[name]


def test_its_modules_are_found(project: Path) -> None:
    found = targets.build("module", factory="experiments.dissect:build")
    assert found.model.out_channels == 5


def test_a_missing_module_is_named(project: Path) -> None:
    with pytest.raises(DissectError, match=r"no module experiments\.gone"):
        targets.build("module", factory="experiments.gone:build")


def test_the_command_runs_our_runner_in_its_folder(project: Path) -> None:
    command = [sys.executable, "-m", "clipdissect.app.cli", "dissect", "--help"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Describe the units of a network's layers" in done.stdout
