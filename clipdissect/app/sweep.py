"""The table of a multirun's jobs: the overrides in which they differ, and their metrics."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect.app.console import RIGHT, console, print_lines, text_table
from clipdissect.app.printing import with_interval
from clipdissect.report.scores import score_of
from clipdissect.results.coherence import NAMES
from clipdissect.results.run_files import write_table
from clipdissect.results.sweeps import job_folders, overrides
from clipdissect.tracking.base import flatten

TABLE = "jobs.csv"
MOST_PRINTED = 20
ALL_LAYERS = "all layers"
# Of the metrics with other names a table doesn't say which value is best.
LARGER = {
    *("top1", "top1_any_synonym", "top5", "top5_any_synonym", "auc", "above_null"),
    *("clarity", "monosemanticity", "simulation", "simulation_spearman", "ablation"),
    *("cosy_auc", "cosy_mad", "iou", "f1", "auprc", "correlation", "tuning half", "other half"),
}
SMALLER = {"mean_rank", "median_rank", *(n for n in NAMES if score_of(n).smaller_is_better)}
OF_LAYERS = ("above_null", "different_descriptions", *NAMES)
# Of other runners' metrics these describe how they were computed.
NO_METRICS = ("bootstrap", "interval", "controls", "differences", "seconds", "settings")


@dataclass(frozen=True)
class Value:
    """A metric's value, an integer if it counts, and the ends of its interval, if known."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        if isinstance(self.value, int):
            return f"{self.value:,}"
        interval = None if self.low is None else {"low": self.low, "high": self.high}
        return with_interval(self.value, interval)


@dataclass(frozen=True)
class SweepJob:
    """A job: its folder in the multirun's, overrides by key, metrics, and why it failed, if so."""

    name: str
    settings: Mapping[str, str]
    metrics: Mapping[str, Value] = field(default_factory=dict)
    failure: str = ""

    @property
    def status(self) -> str:
        return "failed" if self.failure else "done"


def read_jobs(folder: Path) -> list[SweepJob]:
    """Read the jobs of a multirun's folder, whichever processes ran them."""
    return [_job(folder, path) for path in job_folders(folder)]


def _job(folder: Path, path: Path) -> SweepJob:
    settings = dict(_setting(override) for override in overrides(path))
    failure = _read(path / "failure.json")
    message = str(failure.get("message", "")).partition("\n")[0] if failure else ""
    metrics = {} if failure else main_metrics(_read(path / "metrics.json"))
    return SweepJob(path.relative_to(folder).as_posix(), settings, metrics, message)


def _setting(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+"), value


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def main_metrics(metrics: Mapping[str, Any]) -> dict[str, Value]:
    """Return the metrics to compare runs by, most important first, from `metrics.json`.

    Of runners without an objective, class names or layers: every number.
    """
    values = {**_objective(metrics), **_final_layer(metrics), **_layers(metrics)}
    return values or {
        key: Value(value)
        for key, value in flatten(metrics)
        if _is_number(value) and not any(name in key for name in NO_METRICS)
    }


def _objective(metrics: Mapping[str, Any]) -> dict[str, Value]:
    objective = metrics.get("objective") or {}
    halves = {"tuning": "tuning half", "report": "other half"}
    return {
        f"{objective.get('name') or 'objective'}, {words}": Value(objective[half])
        for half, words in halves.items()
        if _is_number(objective.get(half))
    }


def _final_layer(metrics: Mapping[str, Any]) -> dict[str, Value]:
    final, intervals = metrics.get("final_layer") or {}, metrics.get("intervals") or {}
    return {
        name: _with_ends(value, intervals.get(name))
        for name, value in final.items()
        if _is_number(value) and (name in LARGER | SMALLER or name.endswith("_cos"))
    }


def _layers(metrics: Mapping[str, Any]) -> dict[str, Value]:
    layers = metrics.get("layers")
    if not isinstance(layers, Mapping):
        return {}
    if ALL_LAYERS in layers:
        layers = {ALL_LAYERS: layers[ALL_LAYERS]}
    values: dict[str, Value] = {}
    for layer, facts in layers.items():
        prefix = "" if len(layers) == 1 else f"{layer}: "
        for name, fact in sorted(facts.items(), key=lambda item: item[0] not in LARGER):
            if isinstance(fact, Mapping) and _is_number(fact.get("value")):
                values[f"{prefix}{name}"] = _with_ends(fact["value"], fact)
            elif name in OF_LAYERS and _is_number(fact):
                values[f"{prefix}{name}"] = Value(fact)
    return values


def _with_ends(value: float, interval: Mapping[str, Any] | None) -> Value:
    interval = interval or {}
    return Value(value, interval.get("low"), interval.get("high"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def differing(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values aren't the same in all rows, in the order of the rows."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if any(row.get(key) != rows[0].get(key) for row in rows)]


def table(jobs: Sequence[SweepJob]) -> pd.DataFrame:
    """Return a row per job: `job, status`, differing overrides, metrics with ends, `failure`."""
    names = differing([job.settings for job in jobs])
    rows = []
    for job in jobs:
        row: dict[str, Any] = {"job": job.name, "status": job.status}
        row |= {name: job.settings.get(name, "") for name in names}
        for name, value in job.metrics.items():
            row[name] = value.value
            if value.low is not None:
                row |= {f"{name} low": value.low, f"{name} high": value.high}
        rows.append(row)
    frame: pd.DataFrame = pd.DataFrame(rows)
    frame["failure"] = [job.failure for job in jobs]
    return frame


def best(jobs: Iterable[SweepJob], metric: str) -> float | None:
    """Return the best value of a metric; None if its direction is unknown or no job has it."""
    name = metric.rpartition(": ")[2].rpartition(", ")[2]
    values = [job.metrics[metric].value for job in jobs if metric in job.metrics]
    is_cosine = name.endswith("_cos") and "/" not in name
    if not values or not (is_cosine or name in LARGER | SMALLER):
        return None
    return min(values) if name in SMALLER else max(values)


def report(folder: Path) -> None:
    """Write `jobs.csv` into a multirun's folder, and print its table and its best job."""
    jobs = read_jobs(folder)
    if not jobs:
        return
    write_table(folder / TABLE, table(jobs))
    done = [job for job in jobs if not job.failure]
    names = differing([job.metrics for job in done]) if len(done) > 1 else []
    names = names or _names(done)
    marks = {name: best(done, name) for name in names}
    chosen = next((name for name, value in marks.items() if value is not None), None)
    out = console()
    out.print(_printed(_selection(jobs, chosen, marks), jobs, marks, out.width))
    print_lines(out, _closing_lines(jobs, chosen, marks, folder))


def _names(jobs: Iterable[SweepJob]) -> list[str]:
    return list(dict.fromkeys(name for job in jobs for name in job.metrics))


def _selection(
    jobs: Sequence[SweepJob], chosen: str | None, marks: Mapping[str, float | None]
) -> list[SweepJob]:
    """Return all jobs, or of many the best ones by a metric, if there is one, else the first."""
    if len(jobs) <= MOST_PRINTED:
        return list(jobs)
    done = [job for job in jobs if not job.failure]
    if chosen is None:
        return done[:MOST_PRINTED]
    ideal = marks[chosen] or 0.0
    valued = [job for job in done if chosen in job.metrics]
    return sorted(valued, key=lambda job: abs(job.metrics[chosen].value - ideal))[:MOST_PRINTED]


def _printed(
    shown: Sequence[SweepJob],
    jobs: Sequence[SweepJob],
    marks: Mapping[str, float | None],
    width: int,
) -> Any:
    """Return the table with as many metrics as a terminal of this width has room for."""
    settings = differing([job.settings for job in jobs])
    columns = {"job": [job.name for job in shown]}
    columns |= {name: [job.settings.get(name, "-") for job in shown] for name in settings}
    if any(job.failure for job in shown):
        columns["status"] = [job.status for job in shown]
    for name, ideal in marks.items():
        columns[name.replace("_", " ")] = [_cell(job, name, ideal) for job in shown]
        needed = sum(max(map(len, [key, *cells])) + 4 for key, cells in columns.items())
        if needed > width:
            columns.popitem()
            break
    right = {name.replace("_", " ") for name in marks}
    header = {name: {"no_wrap": True, **(RIGHT if name in right else {})} for name in columns}
    return text_table(header, zip(*columns.values(), strict=True))


def _cell(job: SweepJob, metric: str, ideal: float | None) -> str:
    if metric not in job.metrics:
        return "-"
    value = job.metrics[metric]
    return f"{value.text} *" if value.value == ideal else f"{value.text}  "


def _closing_lines(
    jobs: Sequence[SweepJob], chosen: str | None, marks: Mapping[str, float | None], folder: Path
) -> list[str]:
    failed = sum(bool(job.failure) for job in jobs)
    lines = []
    if len(jobs) > MOST_PRINTED:
        lines.append(f"{MOST_PRINTED} of {len(jobs)} jobs are shown")
    if chosen is not None and len(jobs) - failed > 1:
        settings = differing([job.settings for job in jobs])
        winners = [
            j for j in jobs if chosen in j.metrics and j.metrics[chosen].value == marks[chosen]
        ]
        names = [_named(job, settings) for job in winners[:3]] + ["..."] * (len(winners) > 3)
        lines.append(f"* best of its column; by {chosen.replace('_', ' ')}: {', '.join(names)}")
    count = f"{len(jobs)} jobs" + (f", {failed} failed" if failed else "")
    return [*lines, f"multirun: {folder} ({count}; {TABLE} has all numbers)"]


def _named(job: SweepJob, settings: Iterable[str]) -> str:
    given = " ".join(f"{name}={job.settings[name]}" for name in settings if name in job.settings)
    return f"job {job.name}" + (f" ({given})" if given else "")
