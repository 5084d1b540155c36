"""Searches by Optuna: what they find, go on with, and refuse."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import standin
from PIL import Image
from test_sweeps import launched

from clipdissect.app.search import report as search_report

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra `sweep`")

SEARCH = (
    "experiment=tune_soft_wpmi",
    "objective=top1",
    "hydra.sweeper.n_trials=3",
    "hydra.sweeper.sampler.seed=0",
    "similarity.lam=1.5",
    "similarity.p_start=0.99",
    "similarity.p_end=0.9",
    "similarity.top_k=9",
)

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


def summaries(folder: Path) -> list[dict[str, Any]]:
    paths = sorted((folder / "results").rglob("search.json"))
    return [json.loads(path.read_text()) for path in paths]


def test_finds_the_best_trial_and_goes_on(run: Run) -> None:
    said = search(run)
    (trials,) = tables(run[0])
    assert trials["default"].to_list() == [True, False, False, False]
    # The stand-in's value is the distance of `a` to 10, that of the other half one lower.
    assert trials["tuning"].to_list() == pytest.approx(-(trials["similarity.a"] - 10).abs(), 1e-4)
    assert trials["report"].to_list() == pytest.approx(trials["tuning"] - 1, 1e-4)
    # The default, a=10, comes first and is best.
    assert trials["similarity.a"][0] == 10
    assert (
        "default configuration: objective top1: -0.0000 on the 2 units of the tuning half" in said
    )
    assert "-1.0000 on the other 3" in said
    best = trials["tuning"][1:].max()
    assert f"{best:.4f} on the tuning half, {best - 1:.4f} on the other half" in said
    assert "no trial beats the default on the tuning half: keep the default" in said
    summary = summaries(run[0])[0]
    assert summary["default"]["inside"]
    assert summary["beats_default"] == pytest.approx({"tuning": best, "report": best}, rel=1e-5)
    assert "similarity.lam" not in trials  # set to one value: not searched
    picture = next((run[0] / "results").rglob("search.png"))
    with Image.open(picture) as image:
        assert image.width > 900

    said = search(run)
    assert "has 4 trials: going on with it" in said
    after = tables(run[0])[1]
    assert len(after) == 7  # the default was tried already
    assert after["report"].notna().all()
    assert after[:4]["similarity.a"].to_list() == trials["similarity.a"].to_list()
    assert not set(after[4:]["similarity.a"]) & set(trials["similarity.a"])  # the seed moves on


SPACES: dict[str, tuple[str, ...]] = {
    "tpe, startup over": (
        "-m",
        "similarity.a=interval(20.0,50.0)",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.sampler.n_startup_trials=1",
    ),
    "categories": ("similarity.a=choice(12,13)", "hydra.sweeper.n_trials=2"),
    "grid": (
        "-m",
        "similarity.a=choice(13,12)",
        "hydra.sweeper.params=null",
        "hydra/sweeper/sampler=grid",
    ),
    "random": (
        "similarity.a=range(12,14)",
        "hydra/sweeper/sampler=random",
        "hydra.sweeper.n_trials=2",
    ),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_default_outside_of_the_space_is_tried(run: Run, space: tuple[str, ...]) -> None:
    given = [one for one in SEARCH if not ("grid" in str(space) and "seed" in one)]
    folder, monkeypatch, capsys = run
    assert launched(monkeypatch, folder, *given, *space) == 0
    said = capsys.readouterr().out
    assert "it lies outside of the search space: similarity.a=10" in said
    assert "no trial beats the default" in said
    (trials,) = tables(folder)
    assert trials["default"].to_list() == [True, False, False]
    assert trials["trial"].isna().to_list() == [True, False, False]
    assert trials["tuning"][0] == 0
    assert trials["similarity.a"][1:].ge(12).all()
    (summary,) = summaries(folder)
    assert (summary["with_value"], summary["default"]["inside"]) == (2, False)
    assert summary["beats_default"]["report"] < 0


@pytest.mark.parametrize(
    ("report", "says"),
    [
        (0.5, "by 0.5000 on the other half, which decides"),
        (-0.5, "but not on the other half (-0.5000), which decides: keep the default"),
        (math.nan, "is gone with its files"),
    ],
)
def test_best_trial_is_judged_on_the_other_half(report: float, says: str) -> None:
    trials = pd.DataFrame(
        {
            "trial": [0, 1, 2, 3],
            "default": [True, False, False, False],
            "tuning": [1.0, 2.0, 2.0, math.nan],
            "report": [1.0, 1.0 + report, 9.0, math.nan],
            "folder": "",
        }
    )
    objective = {"name": "top1", "tuning": 1.0, "tuning_units": 2, "report": 1.0, "report_units": 3}
    study = SimpleNamespace(
        study_name="s",
        trials=[SimpleNamespace(params={"a": n}) for n in range(4)],
        user_attrs={
            "default": {"inside": True, "params": {"a": 0}, "folder": "", "objective": objective}
        },
    )
    found = search_report.summary(study, trials)
    assert found["best"]["trial"] == 1  # of equals the first
    said = list(search_report.summary_lines(found))[-1]
    assert "trial 1 beats the default by 1.0000 on the tuning half" in said
    assert says in said


def test_failed_default_is_told_and_tried_again(run: Run) -> None:
    folder, monkeypatch, _capsys = run
    values = iter([ZeroDivisionError("once")])
    given = standin.run

    def fails(config: Any) -> float:
        for error in values:
            raise error
        return given(config)

    monkeypatch.setattr(standin, "run", fails)
    said = search(run, "hydra.sweeper.n_trials=1", code=1)
    assert "whether a trial beats the default is unknown: the default configuration failed" in said
    assert summaries(folder)[0]["beats_default"] is None
    said = search(run, "hydra.sweeper.n_trials=1")
    assert summaries(folder)[1]["default"]["tuning"] == 0


def test_default_of_a_group(run: Run) -> None:
    folder, monkeypatch, _capsys = run
    given = [one for one in SEARCH if not one.startswith("similarity.")]
    space = (
        "similarity=choice(wpmi,soft_wpmi)",
        "similarity.a=interval(1.0,20.0)",
        "hydra.sweeper.params=null",
        "hydra.sweeper.n_trials=1",
    )
    assert launched(monkeypatch, folder, *given, *space) == 0
    (trials,) = tables(folder)
    assert trials["similarity"][0] == "soft_wpmi"


def test_failed_trial_has_no_value(run: Run) -> None:
    said = search(run, "top=choice(3,4)", code=2)
    assert "no trial of the search has a value" in said
    assert "three is too many" in said or "ZeroDivisionError" in said
    assert not list((run[0] / "results").rglob("search.png"))


def test_other_settings_are_another_study(run: Run) -> None:
    few = "hydra.sweeper.n_trials=1"
    search(run, few)
    said = search(run, "probe=photos", code=2)
    assert "study tune_soft_wpmi has other settings" in said
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


def test_a_grid_needs_lists(run: Run) -> None:
    folder, monkeypatch, capsys = run
    given = [one for one in SEARCH if "seed" not in one]
    assert launched(monkeypatch, folder, *given, "hydra/sweeper/sampler=grid") == 2
    said = capsys.readouterr().err
    assert "similarity.a, similarity.lam" in said
    assert "are intervals: set hydra.sweeper.params=null" in said
    assert not list((folder / "results").rglob("failure.json"))


def test_metrics_of_a_trial_are_in_its_folder(run: Run) -> None:
    search(run, "hydra.sweeper.n_trials=1")
    metrics = json.loads(next((run[0] / "results").rglob("0/metrics.json")).read_text())
    assert metrics["objective"]["report_units"] == 3


def test_runner_without_an_objective_is_not_searched(run: Run) -> None:
    folder, monkeypatch, capsys = run
    assert launched(monkeypatch, folder, *SEARCH, runner="final_layer") == 2
    assert "final_layer has no objective to search by" in capsys.readouterr().err
    assert not list(folder.rglob("seen.json"))
