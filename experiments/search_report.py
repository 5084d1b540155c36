"""What a hyperparameter search found: a table, a figure, and the best trial in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from clipdissect.files import atomic
from clipdissect.results import write_table
from experiments.show import objective_line

COLUMNS = 3  # of the figure
SIDE = 3.2  # inches of one of its plots


@dataclass(frozen=True)
class Job:
    """A finished job of a search.

    Args:
        folder: with its results.
        overrides: it was called with.
        objective: as in `metrics.json`.
    """

    folder: Path
    overrides: frozenset[str]
    objective: dict[str, Any]


def report(study: Any, folder: Path) -> None:
    """Write `trials.csv` and `search.png`, and print the best trial.

    Args:
        study: Optuna's.
        folder: of the multirun.
    """
    jobs = list(_jobs(study.user_attrs.get("folders", [])))
    trials = table(study, jobs)
    write_table(folder / "trials.csv", trials)
    with_value = trials.dropna(subset=["tuning"])
    print(f"study {study.study_name}: {len(trials)} trials, {len(with_value)} with a value")
    if not with_value.empty:
        name = study.user_attrs.get("setting objective", "objective")
        plot(trials, name, _logarithmic(study), folder / "search.png")
        _tell_best(study.best_trial, jobs)
    print(f"files: {folder}/trials.csv, search.png; the same command again adds trials")


def table(study: Any, jobs: Sequence[Job]) -> pd.DataFrame:
    """One row a trial: `trial, state, tuning, report`, the parameters, `folder`.

    `report`, the value of the other half, and `folder` are missing where the results are gone.
    """
    rows = []
    for trial in study.trials:
        job = _job_of(trial, jobs) if trial.value is not None else None
        rows.append({
            "trial": trial.number, "state": trial.state.name.lower(), "tuning": trial.value,
            "report": job.objective["report"] if job else None, **trial.params,
            "folder": str(job.folder) if job else "",
        })  # fmt: skip
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame


def plot(trials: pd.DataFrame, objective: str, logarithmic: frozenset[str], path: Path) -> None:
    """The objective by trial, with the best so far, and by each parameter.

    Args:
        trials: of `table`.
        objective: its name.
        logarithmic: parameters with a logarithmic axis.
        path: of the PNG.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter

    trials = trials.dropna(subset=["tuning"])
    names = [n for n in trials if n not in ("trial", "state", "tuning", "report", "folder")]
    rows = -(-(len(names) + 1) // COLUMNS)
    figure = Figure((SIDE * COLUMNS, SIDE * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False, sharey=True).flatten()
    axes[0].step(
        trials["trial"], trials["tuning"].cummax(), where="post", color="tab:grey",
        label="best so far",
    )  # fmt: skip
    for axis, name in zip(axes, ["trial", *names], strict=False):
        axis.scatter(trials[name], trials["tuning"], s=18, label="tuning half")
        axis.scatter(
            trials[name], trials["report"], s=18, facecolors="none", edgecolors="tab:orange",
            label="other half",
        )  # fmt: skip
        axis.set_xlabel(str(name).removeprefix("similarity."))
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=name == "trial"))
        if name in logarithmic:
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(ScalarFormatter())
    for axis in axes[len(names) + 1 :]:
        axis.set_axis_off()
    axes[0].set_ylabel(objective)
    axes[0].legend(fontsize="small")
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _tell_best(best: Any, jobs: Sequence[Job]) -> None:
    job = _job_of(best, jobs)
    if job:
        print(f"best trial {best.number}, {objective_line(job.objective)}")
    else:
        print(f"best trial {best.number}: {best.value:.4f} on the tuning half; its files are gone")
    print("  " + " ".join(_overrides(best)))


def _jobs(folders: Sequence[str]) -> Iterator[Job]:
    for metrics in (path for folder in folders for path in Path(folder).glob("*/metrics.json")):
        objective = json.loads(metrics.read_text(encoding="utf-8")).get("objective")
        overrides = metrics.parent / ".hydra" / "overrides.yaml"
        if objective and overrides.is_file():
            listed: Any = OmegaConf.to_container(OmegaConf.load(overrides))
            yield Job(metrics.parent, frozenset(listed), objective)


def _job_of(trial: Any, jobs: Sequence[Job]) -> Job | None:
    """The trial's job: the one called with its parameters."""
    return next((job for job in jobs if job.overrides.issuperset(_overrides(trial))), None)


def _overrides(trial: Any) -> list[str]:
    return [f"{name}={value}" for name, value in trial.params.items()]


def _logarithmic(study: Any) -> frozenset[str]:
    return frozenset(
        name
        for trial in study.trials
        for name, distribution in trial.distributions.items()
        if getattr(distribution, "log", False) or "Log" in type(distribution).__name__
    )
