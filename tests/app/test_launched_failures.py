"""A command tells its own failures, and trackers get one value per cell."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from clipdissect import targets
from clipdissect.app.callbacks import Launched
from clipdissect.app.launch import FAILURE, Failure, failures
from clipdissect.tracking.base import flatten


def test_failures_of_other_commands_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Launched, "folder", tmp_path)
    for name, launch in (("other/run", "theirs"), ("0", "ours"), ("1", "ours")):
        (tmp_path / name).mkdir(parents=True)
        failure = Failure(
            f"of {name}", number=1 - int(name) if name.isdigit() else 0, launch=launch
        )
        (tmp_path / name / FAILURE).write_text(json.dumps(asdict(failure)))
    (tmp_path / FAILURE).write_text('{"message": "of an earlier version"}')
    assert [failure.message for failure in failures("ours")] == ["of 1", "of 0"]


def test_no_cell_holds_a_list() -> None:
    nested = {"a": [1, {"b": [2, 3]}], "c": {"d": 4}}
    assert dict(flatten(nested)) == {"a/0": 1, "a/1/b/0": 2, "a/1/b/1": 3, "c/d": 4}


def test_own_networks_say_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights_net.py").write_text(
        "from torch import nn\nfrom torchvision.transforms import ToTensor\n"
        "from clipdissect.targets import Target\n"
        "def build():\n    return nn.Conv2d(3, 2, 1)\n"
        "def known():\n    return Target('x', build(), ToTensor(), (), weights='mine v2')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    plain = targets.build("module", factory="weights_net:build")
    assert plain.facts["weights"] == "of weights_net:build"
    assert targets.build("module", factory="weights_net:known").facts["weights"] == "mine v2"
    assert targets.build("timm", model="test_resnet", weights="random").facts["weights"] == "random"
