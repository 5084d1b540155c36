"""A project that has a package `experiments` of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import experiments
from clipdissect import target
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
    (own / "net.py").write_text(NET)
    (own / "sizes.py").write_text("WIDTH = 5\n")
    (own / "search.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(experiments, "__path__", list(experiments.__path__))
    for name in ("experiments.net", "experiments.sizes"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_its_modules_are_found_beside_ours(project: Path) -> None:
    found = target.build("module", factory="experiments.net:build")
    assert found.model.out_channels == 5


def test_a_name_that_both_have_is_refused(project: Path) -> None:
    with pytest.raises(DissectError, match=r"module experiments\.search of its own.*Rename"):
        target.build("module", factory="experiments.search:build")


def test_a_module_that_neither_has_is_named(project: Path) -> None:
    with pytest.raises(DissectError, match=r"no module experiments\.gone"):
        target.build("module", factory="experiments.gone:build")
