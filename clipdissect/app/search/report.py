"""Report on a search: trials, a figure, and the best trial against the default."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from clipdissect.app.printing import objective_line
from clipdissect.app.search.callback import ATTRIBUTE
from clipdissect.results.run_files import write_json, write_table
from clipdissect.utils.files import atomic

HALVES = {"tuning": "tuning half", "report": "other half"}


@dataclass(frozen=True)
class Job:
    """A finished job: its folder, overrides, and objective as in `metrics.json`."""

    folder: Path
    overrides: frozenset[str]
    objective: dict[str, Any]


def report(study: Any, folder: Path) -> None:
    """Write `trials.csv`, `search.json`, `search.png`; print the best trial and the default."""
    trials = table(study, list(_jobs(study.user_attrs.get("folders", []))))
    write_table(folder / "trials.csv", trials)
    results = summary(study, trials)
    write_json(folder / "search.json", results)
    valued = results["with_value"]
    print(f"study {study.study_name}: {len(study.trials)} trials, {valued} with a value")
    if valued:
        plot(study, trials, results["objective"], folder / "search.png")
    for line in summary_lines(results):
        print(line)
    print(
        f"files: {folder}/trials.csv, search.json, search.png; the same command again adds trials"
    )


def _jobs(folders: Sequence[str]) -> Iterator[Job]:
    for metrics in (path for folder in folders for path in Path(folder).glob("*/metrics.json")):
        objective = json.loads(metrics.read_text(encoding="utf-8")).get("objective")
        overrides = metrics.parent / ".hydra" / "overrides.yaml"
        if objective and overrides.is_file():
            listed: Any = OmegaConf.to_container(OmegaConf.load(overrides))
            yield Job(metrics.parent, frozenset(listed), objective)


def table(study: Any, jobs: Sequence[Job]) -> pd.DataFrame:
    """Return `trial, state, default, tuning, report`, the parameters and `folder` per trial.

    `report`, the held-out half's value, and `folder` are missing if the job's files are gone.
    A default outside of the search space comes first, without a number.
    """
    rows: list[dict[str, Any]] = []
    default = study.user_attrs.get(ATTRIBUTE)
    if default and not default["inside"]:
        rows.append({"trial": None, "state": "complete", **_default_cells(default)})
    for trial in study.trials:
        row = {"trial": trial.number, "state": trial.state.name.lower()}
        if default and trial.user_attrs.get(ATTRIBUTE):
            rows.append({**row, **_default_cells(default)})
            continue
        overrides = {f"{name}={value}" for name, value in trial.params.items()}
        matching = (job for job in jobs if job.overrides >= overrides)
        job = next(matching, None) if trial.value is not None else None
        row |= {"default": False, "tuning": trial.value}
        row |= {"report": job.objective["report"] if job else None, **trial.params}
        rows.append({**row, "folder": str(job.folder) if job else ""})
    types = {"trial": "Int64", "tuning": float, "report": float}
    frame: pd.DataFrame = pd.DataFrame(rows).astype(types)
    return frame


def _default_cells(default: Mapping[str, Any]) -> dict[str, Any]:
    halves = {half: default["objective"][half] for half in HALVES}
    return {"default": True, **halves, **default["params"], "folder": default["folder"]}


def summary(study: Any, trials: pd.DataFrame) -> dict[str, Any]:
    """Return the contents of `search.json`: `best`, `default` and, per half, `beats_default`.

    The first trial with the largest tuning value is best; the default is no candidate.
    """
    valued = trials.dropna(subset=["tuning"])
    candidates = valued[~valued["default"]]
    default = study.user_attrs.get(ATTRIBUTE)
    results: dict[str, Any] = {
        "study": study.study_name,
        "with_value": int(valued["trial"].notna().sum()),
        "objective": study.user_attrs.get("setting objective", "objective"),
        "default": None,
        "best": None,
        "beats_default": None,
    }
    if default:
        facts = {key: default[key] for key in ("inside", "params", "folder")}
        results["default"] = facts | default["objective"]
    if len(candidates):
        row = candidates.loc[candidates["tuning"].idxmax()]
        results["best"] = {
            "trial": int(row["trial"]),
            "params": study.trials[int(row["trial"])].params,
            **{half: float(row[half]) for half in HALVES},
            "folder": row["folder"],
        }
    if default and len(candidates):
        best, default = results["best"], results["default"]
        results["beats_default"] = {half: best[half] - default[half] for half in HALVES}
    else:
        reason = "no trial has a value" if default else "the default configuration failed"
        results["beats_default_reason"] = reason
    return results


def summary_lines(results: Mapping[str, Any]) -> Iterator[str]:
    best, default, gain = results["best"], results["default"], results["beats_default"]
    if default:
        yield f"default configuration: {objective_line(default)}"
        if not default["inside"]:
            yield f"  it lies outside of the search space: {_assignments(default['params'])}"
    if best:
        values = [
            f"{best[h]:.4f} on the {name}" for h, name in HALVES.items() if best[h] == best[h]
        ]
        yield f"best trial {best['trial']}: {', '.join(values)}"
        yield f"  {_assignments(best['params'])}"
    if gain is None:
        yield f"whether a trial beats the default is unknown: {results['beats_default_reason']}"
    elif gain["tuning"] <= 0:
        yield "no trial beats the default on the tuning half: keep the default"
    else:
        yield _verdict(best["trial"], gain)


def _verdict(trial: int, gain: Mapping[str, float]) -> str:
    # The gain on the tuning half is biased: it is the best of many.
    line = (
        f"trial {trial} beats the default by {gain['tuning']:.4f} on the tuning half, by which it "
        "was chosen"
    )
    other = gain["report"]
    if other != other:
        return f"{line}; its value on the other half is gone with its files"
    if other > 0:
        return f"{line}, and by {other:.4f} on the other half, which decides"
    return f"{line}, but not on the other half ({other:+.4f}), which decides: keep the default"


def _assignments(params: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in params.items())


def plot(study: Any, trials: pd.DataFrame, objective: str, path: Path) -> None:
    """Draw Optuna's slice plot with values on the held-out half and lines for the default."""
    from matplotlib import pyplot
    from optuna.visualization.matplotlib import plot_slice

    pyplot.switch_backend("agg")  # no window
    numbered, default = trials.dropna(subset=["trial", "report"]), trials[trials["default"]]
    lines = {"tuning": ("tab:blue", "--"), "report": ("tab:orange", ":")}
    # Optuna sets a style for the whole process, and warns that its plots are experimental.
    with pyplot.style.context("default"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = np.ravel(plot_slice(study, target_name=objective))
        for axis in axes:
            axis.collections[0].set_label(HALVES["tuning"])
            rows = numbered.dropna(subset=[axis.get_xlabel()])
            x = rows[axis.get_xlabel()]
            x = x if pd.api.types.is_numeric_dtype(x) else x.astype(str)
            colors = {"facecolors": "none", "edgecolors": "tab:orange"}
            axis.scatter(x, rows["report"], label=HALVES["report"], **colors)
            for half, (color, style) in lines.items():
                for value in default[half]:
                    label = f"default, {HALVES[half]}"
                    axis.axhline(value, color=color, linestyle=style, linewidth=0.8, label=label)
        axes[0].legend(fontsize="small")
        with atomic(path) as temporary:
            axes[0].figure.savefig(temporary, format="png", dpi=200, bbox_inches="tight")
        pyplot.close(axes[0].figure)
