"""What a hyperparameter search found: a table, a figure, and the best trial beside the default."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from clipdissect.app.print_run import objective_line
from clipdissect.app.search.default import ATTRIBUTE
from clipdissect.results.run_files import write_json, write_table
from clipdissect.utils.figures import save_figure

COLUMNS = 3  # of the figure
SIDE = 3.2  # inches of one of its plots
ABOUT = ("trial", "state", "default", "tuning", "report", "folder")  # of trials.csv
HALVES = {"tuning": "tuning half", "report": "other half"}
DOTS: dict[str, dict[str, Any]] = {
    "tuning": {"color": "tab:blue"}, "report": {"facecolors": "none", "edgecolors": "tab:orange"},
}  # fmt: skip
LINES = {"tuning": {"color": "tab:blue", "linestyle": "--"},
         "report": {"color": "tab:orange", "linestyle": ":"}}  # fmt: skip


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
    """Write `trials.csv`, `search.json` and `search.png`, and print the best trial and the default.

    Args:
        study: Optuna's.
        folder: of the multirun.
    """
    jobs = list(_jobs(study.user_attrs.get("folders", [])))
    trials = table(study, jobs)
    write_table(folder / "trials.csv", trials)
    found = summary(study, trials)
    write_json(folder / "search.json", found)
    print(
        f"study {study.study_name}: {len(study.trials)} trials, {found['with_value']} with a value"
    )
    if found["with_value"]:
        plot(trials, found["objective"], _logarithmic(study), folder / "search.png")
    for line in said(found):
        print(line)
    print(
        f"files: {folder}/trials.csv, search.json, search.png; the same command again adds trials"
    )


def table(study: Any, jobs: Sequence[Job]) -> pd.DataFrame:
    """Return one row per trial: `trial, state, default, tuning, report`, the parameters, `folder`.

    `report`, the value of the other half, and `folder` are missing where the results are gone. A
    default configuration outside of the search space comes first, and has no number.
    """
    rows: list[dict[str, Any]] = []
    known = study.user_attrs.get(ATTRIBUTE)
    if known and not known["inside"]:
        rows.append({"trial": None, "state": "complete", **_default_cells(known)})
    for trial in study.trials:
        row = {"trial": trial.number, "state": trial.state.name.lower()}
        if known and trial.user_attrs.get(ATTRIBUTE):
            rows.append({**row, **_default_cells(known)})
            continue
        job = _job_of(trial, jobs) if trial.value is not None else None
        rows.append({
            **row, "default": False, "tuning": trial.value,
            "report": job.objective["report"] if job else None, **trial.params,
            "folder": str(job.folder) if job else "",
        })  # fmt: skip
    kinds = {"trial": "Int64", "tuning": float, "report": float}
    table: pd.DataFrame = pd.DataFrame(rows).astype(kinds)
    return table


def _default_cells(known: Mapping[str, Any]) -> dict[str, Any]:
    halves = {half: known["objective"][half] for half in HALVES}
    return {"default": True, **halves, **known["params"], "folder": known["folder"]}


def summary(study: Any, trials: pd.DataFrame) -> dict[str, Any]:
    """Return the best trial, the default configuration, and whether the trial beats the default.

    JSON-able. `beats_default` has, for each half, the gain; both values are of the same units. The
    best trial is that with the largest value on the tuning half, of equals the first; the default
    is none of the candidates.

    Args:
        study: Optuna's.
        trials: of `table`.
    """
    valued = trials.dropna(subset=["tuning"])
    tried = valued[~valued["default"]]
    known = study.user_attrs.get(ATTRIBUTE)
    found: dict[str, Any] = {
        "study": study.study_name, "with_value": int(valued["trial"].notna().sum()),
        "objective": study.user_attrs.get("setting objective", "objective"),
        "default": None, "best": None, "beats_default": None,
    }  # fmt: skip
    if known:
        found["default"] = {"inside": known["inside"], "params": known["params"],
                            "folder": known["folder"], **known["objective"]}  # fmt: skip
    if len(tried):
        row = tried.loc[tried["tuning"].idxmax()]
        found["best"] = {
            "trial": int(row["trial"]), "params": study.trials[int(row["trial"])].params,
            **{half: float(row[half]) for half in HALVES}, "folder": row["folder"],
        }  # fmt: skip
    if not (known and len(tried)):
        reason = "no trial has a value" if known else "the default configuration failed"
        return found | {"beats_default_reason": reason}
    return found | {"beats_default": {
        half: found["best"][half] - found["default"][half] for half in HALVES
    }}  # fmt: skip


def said(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield a summary's lines for people."""
    best, default = found["best"], found["default"]
    if default:
        yield f"default configuration: {objective_line(default)}"
        if not default["inside"]:
            yield f"  it lies outside of the search space: {_words(default['params'])}"
    if best:
        yield f"best trial {best['trial']}: {_values(best)}"
        yield f"  {_words(best['params'])}"
    gain = found["beats_default"]
    if gain is None:
        yield f"whether a trial beats the default is unknown: {found['beats_default_reason']}"
    elif gain["tuning"] <= 0:
        yield "no trial beats the default on the tuning half: keep the default"
    else:
        yield _judged(best["trial"], gain)


def _judged(trial: int, gain: Mapping[str, float]) -> str:
    """In words, what the best trial gains, which was chosen for its gain on the tuning half."""
    line = (f"trial {trial} beats the default by {gain['tuning']:.4f} on the tuning half, by which "
            f"it was chosen")  # fmt: skip
    other = gain["report"]
    if other != other:
        return f"{line}; its value on the other half is gone with its files"
    if other > 0:
        return f"{line}, and by {other:.4f} on the other half, which decides"
    return f"{line}, but not on the other half ({other:+.4f}), which decides: keep the default"


def _values(one: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{one[half]:.4f} on the {name}" for half, name in HALVES.items() if one[half] == one[half]
    )


def _words(params: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in params.items())


def plot(trials: pd.DataFrame, objective: str, logarithmic: frozenset[str], path: Path) -> None:
    """Draw the objective by trial, with the best so far, and by each parameter; lines are the
    default's values.

    Args:
        trials: of `table`.
        objective: its name.
        logarithmic: parameters with a logarithmic axis.
        path: of the PNG.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter

    trials = trials.dropna(subset=["tuning"])
    names = [n for n in trials if n not in ABOUT]
    default = trials[trials["default"]]
    rows = -(-(len(names) + 1) // COLUMNS)
    figure = Figure((SIDE * COLUMNS, SIDE * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False, sharey=True).flatten()
    numbered = trials.dropna(subset=["trial"])
    axes[0].step(
        numbered["trial"], numbered["tuning"].cummax(), where="post", color="tab:grey",
        label="best so far",
    )  # fmt: skip
    for axis, name in zip(axes, ["trial", *names], strict=False):
        for half, dots in DOTS.items():
            axis.scatter(numbered[name], numbered[half], s=18, label=HALVES[half], **dots)
            for value in default[half]:
                axis.axhline(value, linewidth=0.8, label=f"default, {HALVES[half]}", **LINES[half])
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
    save_figure(figure, path.parent, path.stem, dpi=120, formats=("png",))


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
