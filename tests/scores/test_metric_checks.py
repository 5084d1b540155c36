"""The runner of the sanity checks, on a tiny network and coloured squares."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from tiny import LiveNet, preprocess, write_colours

from clipdissect.app import build as parts
from clipdissect.app import metric_checks as checking
from clipdissect.app.help import conf_folder
from clipdissect.app.launch import refuse
from clipdissect.app.schema import register
from clipdissect.errors import DissectError
from clipdissect.scores.checks import NAMES
from clipdissect.targets import Target
from experiments import metric_checks

CLASSES = ("red", "green", "blue", "Yellow")
Runner = Callable[..., Path]


def class_folders(root: Path) -> None:
    """Eight shades of six colours, a folder each."""
    for name in write_colours(root, shades=8):
        folder = root / name[: -len("0.png")]
        folder.mkdir(exist_ok=True)
        (root / name).rename(folder / name)


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:
    """Runs the runner in the test's folder on the tiny network."""
    register()
    class_folders(tmp_path / "images")
    target = Target("tiny", LiveNet(), preprocess(), ("conv", "head"), "head", CLASSES)
    monkeypatch.setitem(parts.BUILDERS, "target", lambda **_: target)
    monkeypatch.setattr(parts, "track", lambda *_: None)
    monkeypatch.setattr(metric_checks, "results_folder", lambda: tmp_path / "run")
    folders = (f"probe.root={tmp_path}/images",)

    def run(*overrides: str, probe: str = "folder", options: Sequence[str] = folders) -> Path:
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = compose(
                "config",
                overrides=[
                    *("profile=offline", f"probe={probe}", *options),
                    *("capture.workers=0", "capture.device=cpu", f"paths.store={tmp_path}/store"),
                    *("checks.images=1000", "checks.seeds=2", "checks.gammas=[0.3,0.1]"),
                    *overrides,
                ],
            )
        metric_checks.run(config)
        return tmp_path / "run"

    yield run


def facts(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def test_checks_of_all_metrics(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    folder = runner("probe.labels=folders")
    table = pd.read_csv(folder / "checks.csv")
    assert tuple(table.columns) == checking.COLUMNS
    ideal = table[table["kind"] == "theoretical"]
    assert list(ideal["metric"].unique()) == list(NAMES)
    assert sorted(ideal["gamma"].unique()) == [0.1, 0.3]
    units = table[table["kind"] == "experimental"]
    assert len(units) == 2 * len(NAMES)
    classes = units[units["layer"] == "head"].set_index("metric")
    # Four classes: one unit to validate on, three to report. Units fire on their colour alone.
    assert classes["missing_units"].to_dict() == dict.fromkeys(NAMES, 3)
    # The unit of yellow fires on green and red, too; the others on their class alone.
    assert 0.5 < classes["auprc"]["correlation"] <= 1.0
    assert classes["missing_share"][["iou", "correlation", "recall"]].tolist() == [1.0, 1.0, 1.0]
    assert classes["extra_share"]["recall"] == 0.0
    run, metrics = facts(folder, "run"), facts(folder, "metrics")
    assert run["correct_concepts"] == {"conv": "largest IoU", "head": "class"}
    assert (run["concepts"], run["probe"]["used"], run["checks"]["seeds"]) == (6, 48, 2)
    assert metrics["theoretical"]["iou"] == {
        "passes": True,
        "missing_share": 1.0,
        "extra_share": 1.0,
    }
    assert set(metrics["experimental"]) == {"conv", "head"}
    assert "auprc" not in metrics["experimental"]["conv"]["iou"]
    printed = capsys.readouterr().out
    assert "similarity.soft_wpmi" in printed and "AUPRC, head" in printed
    assert "| iou | 100/100 pass |" in (folder / "checks.md").read_text()
    for name in ("checks.png", "checks.pdf"):
        assert (folder / name).stat().st_size > 1000


@pytest.fixture
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """No drawing, which takes longest."""
    monkeypatch.setattr(checking, "figure", lambda *_: None)


@pytest.mark.usefixtures("no_figure")
def test_only_the_chosen_metrics(runner: Runner) -> None:
    chosen = ["f1", "similarity.cosine"]
    folder = runner("probe.labels=folders", f"checks.metrics=[{','.join(chosen)}]")
    assert list(facts(folder, "metrics")["theoretical"]) == chosen


@pytest.mark.usefixtures("no_figure")
def test_masks_give_concepts_to_every_layer(runner: Runner, tmp_path: Path) -> None:
    options = ("images=60", "size=16", "photographs=false", "stamps=none", f"root={tmp_path}/drawn")
    folder = runner(
        "checks.metrics=[iou]", probe="synthetic_broden", options=[f"probe.{o}" for o in options]
    )
    run = facts(folder, "run")
    assert set(run["correct_concepts"].values()) == {"largest IoU"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "has no labels: use one with classes"),
        (["checks.metrics=[iouu]"], "unknown metric 'iouu'. Did you mean iou"),
        (["checks.gammas=[0.7]"], "must give at least one image"),
        (["checks.seeds=0"], "checks.seeds is 0; it must be at least 1"),
        (["checks.min_area=3", "probe.labels=folders"], "min_area is 3"),
        (["capture.keep=top_k", "probe.labels=folders"], "capture.keep=full"),
    ],
)
def test_mistakes_are_named(runner: Runner, overrides: list[str], message: str) -> None:
    with pytest.raises(DissectError, match=message):
        runner(*overrides)


@pytest.mark.parametrize("override", ["encoder=conse", "similarity.top_k=3", "evaluation.seed=1"])
def test_options_that_do_nothing_are_refused(
    override: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipdissect.app.launch.job_name", lambda: "metric_checks")
    with pytest.raises(DissectError, match="does nothing in metric_checks"):
        refuse(metric_checks.UNUSED, [override])
    refuse(metric_checks.UNUSED, ["probe=folder", "checks.seeds=3", "target.layers=[fc]"])
