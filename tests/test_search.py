"""Searches by Optuna: what they find, go on with, and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from test_sweeps import launched

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra `sweep`")

SEARCH = (
    "experiment=tune_soft_wpmi", "objective=top1", "hydra.sweeper.n_trials=3",
    "hydra.sweeper.sampler.seed=0", "similarity.lam=1.5", "similarity.p_start=0.99",
    "similarity.p_end=0.9", "similarity.top_k=9",
)  # fmt: skip

Run = tuple[Path, pytest.MonkeyPatch, pytest.CaptureFixture[str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return tmp_path, monkeypatch, capsys


def search(run: Run, *arguments: str, code: int = 0) -> str:
    """What the stand-in's search prints."""
    folder, monkeypatch, capsys = run
    assert launched(monkeypatch, folder, *SEARCH, *arguments) == code
    printed = capsys.readouterr()
    return printed.out + printed.err


def tables(folder: Path) -> list[pd.DataFrame]:
    return [pd.read_csv(path) for path in sorted((folder / "results").rglob("trials.csv"))]


def test_finds_the_best_trial_and_goes_on(run: Run) -> None:
    said = search(run)
    (trials,) = tables(run[0])
    assert len(trials) == 3
    # The stand-in's value is the distance of `a` to 10, that of the other half one lower.
    assert trials["tuning"].to_list() == pytest.approx(-(trials["similarity.a"] - 10).abs(), 1e-4)
    assert trials["report"].to_list() == pytest.approx(trials["tuning"] - 1, 1e-4)
    best = trials["tuning"].max()
    assert f"objective top1: {best:.4f} on the 2 units of the tuning half" in said
    assert f"{best - 1:.4f} on the other 3" in said
    assert "similarity.lam" not in trials  # set to one value: not searched
    picture = next((run[0] / "results").rglob("search.png"))
    with Image.open(picture) as image:
        assert image.width > 900

    said = search(run)
    assert "has 3 trials: going on with it" in said
    after = tables(run[0])[1]
    assert len(after) == 6
    assert after["report"].notna().all()
    assert after[:3]["similarity.a"].to_list() == trials["similarity.a"].to_list()


def test_failed_trial_has_no_value(run: Run) -> None:
    said = search(run, "top=choice(3,4)", code=2)
    assert "no trial of the search has a value" in said
    assert "three is too many" in said or "ZeroDivisionError" in said
    assert not list((run[0] / "results").rglob("search.png"))


def test_other_settings_are_another_study(run: Run) -> None:
    few = "hydra.sweeper.n_trials=1"
    search(run, few)
    said = search(run, "probe=photos", code=2)
    assert "study tune_soft_wpmi is of another setting" in said
    assert "probe.name is photos, was broden" in said
    assert "hydra.sweeper.study_name=<name>" in said
    assert len(tables(run[0])) == 1
    search(run, few, "probe=photos", "hydra.sweeper.study_name=photos")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("objective=null",), "needs an objective"),
        (("similarity.a=3",), "needs parameters"),
        (("hydra.sweeper.storage=null",), "hydra.sweeper.storage"),
        (("hydra.sweeper.direction=minimize",), "direction=maximize"),
    ],
)
def test_searches_that_make_no_sense(run: Run, changes: tuple[str, ...], says: str) -> None:
    said = search(run, *changes, code=2)
    assert says in said
    assert not list((run[0] / "results").rglob("failure.json"))


def test_metrics_of_a_trial_are_in_its_folder(run: Run) -> None:
    search(run, "hydra.sweeper.n_trials=1")
    metrics = json.loads(next((run[0] / "results").rglob("0/metrics.json")).read_text())
    assert metrics["objective"]["report_units"] == 3


def test_runner_without_an_objective_is_not_searched(run: Run) -> None:
    folder, monkeypatch, capsys = run
    assert launched(monkeypatch, folder, *SEARCH, runner="final_layer") == 2
    assert "final_layer has no objective to search by" in capsys.readouterr().err
    assert not list(folder.rglob("seen.json"))
