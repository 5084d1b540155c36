"""Scores per probe, concept set and similarity function against a layer's class names."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from clipdissect.app.console import markdown_table
from clipdissect.app.printing import number
from clipdissect.evaluation import Resampling, Units, difference, interval, values
from clipdissect.evaluation.bootstrap import Distributions, distributions, intervals
from clipdissect.evaluation.measures import METRICS
from clipdissect.evaluation.units import ANY
from clipdissect.probe import Probe
from clipdissect.utils.figures import save_figure

AVERAGE = "average"  # over all probes: the paper's Table 3 counts a union and its parts
APART = "average without unions"
SHARES = frozenset(metric.name for metric in METRICS if metric.is_share)
UNSEARCHED = "default, on the units that best is judged on"
NUMBERS = ("value", "low", "high", "minus_best", "minus_best_low", "minus_best_high")


@dataclass(frozen=True, eq=False)
class Cell:
    """Labels of a layer; `setting` is `default`, `best` or `UNSEARCHED` hyperparameters."""

    probe: str
    concepts: str
    similarity: str
    setting: str
    parameters: str
    images: int
    units: Units


def compared_columns(units: Units) -> Units:
    """Return the units with the compared metrics: exact names and cosines."""
    columns = ("layer", "unit", "truth", "description", "right", f"right{ANY}")
    chosen = [str(c) for c in units.table if c in columns or str(c).endswith("_cos")]
    accuracies = ("top1", f"top1{ANY}")
    reasons = {k: v for k, v in units.reasons.items() if k in accuracies or k.endswith("_cos")}
    return Units(units.table[chosen], reasons)


def best_of(
    candidates: Sequence[Cell],
    metric: str,
    tuning: Int[np.ndarray, " tuning_units"],
    report: Int[np.ndarray, " report_units"],
) -> Cell:
    """Return the candidate with the best metric on `tuning` units, on `report` units."""

    def score(cell: Cell) -> float:
        value = values(cell.units.take(tuning))[metric]
        return -math.inf if value is None else float(value)

    best = max(candidates, key=score)
    return replace(best, setting="best", units=best.units.take(report))


def unsearched(default: Cell, report: Int[np.ndarray, " report_units"]) -> Cell:
    """Return the default's cell on the report units of `best_of`."""
    return replace(default, setting=UNSEARCHED, units=default.units.take(report))


def overlapping_unions(probes: Mapping[str, Probe]) -> list[str]:
    """Return the names of unions of which a part is a probe too."""
    single = {(probe.name, probe.images) for probe in probes.values()}
    return [
        name
        for name, probe in probes.items()
        if any((part.name, part.images) in single for part in probe.parts)
    ]


def table(
    cells: Sequence[Cell], resampling: Resampling, unions: Collection[str] = ()
) -> pd.DataFrame:
    """Return one row per cell and metric, with paired differences to the best function.

    The interval of an average over probes is of the mean on the same resampled units. The row
    `average without unions` excludes `unions`, whose images the paper's average counts twice.
    Columns: `concepts, setting, similarity, probe, images, parameters, units, metric, value,
    low, high, best, minus_best, minus_best_low, minus_best_high`.
    """
    rows: list[dict[str, Any]] = []
    for group in dict.fromkeys((c.concepts, c.setting) for c in cells):
        scores = [_score(c, resampling) for c in cells if (c.concepts, c.setting) == group]
        apart = [score for score in scores if score.facts["probe"] not in unions]
        averages = list(_averages(scores, AVERAGE))
        if apart and len(apart) < len(scores):
            averages += _averages(apart, APART)
        rows += _with_differences([*scores, *averages], resampling)
    return as_frame(rows)


def as_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a table in which undefined numbers are NaN, even in an all-undefined column."""
    frame: pd.DataFrame = pd.DataFrame(rows)
    typed: pd.DataFrame = frame.astype({name: float for name in NUMBERS if name in frame})
    return typed


@dataclass(frozen=True)
class _Score:
    """Metrics of a cell or an average; `units` are those of each averaged cell."""

    facts: dict[str, Any]
    values: Mapping[str, float]
    distributions: Distributions
    units: tuple[Units, ...]


def _score(cell: Cell, resampling: Resampling) -> _Score:
    columns = ("concepts", "setting", "similarity", "probe", "images", "parameters")
    facts = {name: getattr(cell, name) for name in columns} | {"units": len(cell.units.table)}
    by_metric, drawn = values(cell.units), distributions(cell.units, resampling)
    defined = {m: by_metric[m] for m in drawn if by_metric[m] is not None}
    return _Score(facts, defined, drawn, (cell.units,))


def _averages(scores: Sequence[_Score], name: str) -> Iterator[_Score]:
    for similarity in dict.fromkeys(score.facts["similarity"] for score in scores):
        group = [score for score in scores if score.facts["similarity"] == similarity]
        metrics = [m for m in group[0].values if all(m in score.values for score in group)]
        facts = group[0].facts | {"probe": name, "images": None, "parameters": ""}
        means = {m: float(np.mean([score.values[m] for score in group])) for m in metrics}
        drawn = {m: np.mean([s.distributions[m] for s in group], axis=0) for m in metrics}
        yield _Score(facts, means, drawn, tuple(u for score in group for u in score.units))


def _with_differences(scores: Sequence[_Score], resampling: Resampling) -> Iterator[dict[str, Any]]:
    for score in scores:
        spans = _intervals(score, resampling)
        differences: dict[str, dict[str, Any]] = {}  # by the best function's name
        rivals = [s for s in scores if s.facts["probe"] == score.facts["probe"]]
        for metric, value in score.values.items():
            known = [rival for rival in rivals if metric in rival.values]
            best = max(known, key=lambda rival: rival.values[metric])
            name = best.facts["similarity"]
            if name not in differences:
                differences[name] = _difference(score, best, resampling)
            minus = differences[name][metric]
            low, high = (spans[metric][end] for end in ("low", "high"))
            row = {"metric": metric, "value": value, "low": low, "high": high, "best": name}
            ends = {f"minus_best_{end}": minus[end] for end in ("low", "high")}
            yield score.facts | row | {"minus_best": minus["value"]} | ends


def _intervals(score: _Score, resampling: Resampling) -> dict[str, Any]:
    """Return intervals by metric.

    An averaged share gets the mean of the probes' ends: the width for fully correlated
    errors.
    """
    confidence = resampling.confidence
    spans = [intervals(units, score.distributions, confidence) for units in score.units]
    if len(spans) == 1:
        return spans[0]
    return {
        metric: {end: float(np.mean([s[metric][end] for s in spans])) for end in ("low", "high")}
        if metric in SHARES
        else interval(score.distributions[metric], confidence)
        for metric in score.values
    }


def _difference(score: _Score, best: _Score, resampling: Resampling) -> dict[str, Any]:
    """Return score minus best by metric, with paired intervals over their common units."""
    if score is best:
        return {metric: {"value": 0.0, "low": 0.0, "high": 0.0} for metric in score.values}
    drawn = score.distributions, best.distributions
    if len(score.units) == len(best.units) == 1:
        return difference(score.units[0], best.units[0], resampling, drawn)
    return {
        metric: {"value": value - best.values[metric]}
        | interval(drawn[0][metric] - drawn[1][metric], resampling.confidence)
        for metric, value in score.values.items()
        if metric in best.values
    }


MARKERS = "osD^vPX*"
HEAD = """# Comparison of probes, concept sets and similarity functions

Labels of the layer of classes against the class names. In brackets: 95 % interval over units
(another level where the run says so), Wilson's of accuracies, else the bootstrap's. In tables of
functions an asterisk marks the best one of the column and those whose paired interval of the
difference to it holds 0. The best one is picked on the same units, which flatters its lead a
little. `top1` is of the exact class name, `top1_any_synonym` of any of its names.
"""


def markdown(table: pd.DataFrame, chosen: str) -> str:
    """Return tables of functions by probes and, for `chosen`, of probes by concept sets."""
    parts = [HEAD]
    for setting in _distinct(table, "setting"):
        rows = table[table["setting"] == setting]
        units = int(rows["units"].iloc[0])
        parts.append(f"## Hyperparameters: {setting} ({units} units)\n")
        of_chosen = rows[rows["similarity"] == chosen]
        for metric in _distinct(of_chosen, "metric"):
            cells = of_chosen[of_chosen["metric"] == metric]
            parts.append(f"### Probes and concept sets, {metric}, {chosen}\n")
            parts.append(_grid(cells, "probe", "concepts"))
        for metric in _distinct(rows, "metric"):
            of_metric = rows[rows["metric"] == metric]
            for concepts in _distinct(of_metric, "concepts"):
                cells = of_metric[of_metric["concepts"] == concepts]
                parts.append(f"### Similarity functions, {metric}, concepts {concepts}\n")
                parts.append(_grid(cells, "similarity", "probe", marked=True))
    return "\n".join(parts)


def _grid(cells: pd.DataFrame, down: str, across: str, marked: bool = False) -> str:
    columns = _distinct(cells, across)
    rows = []
    for name, row in cells.groupby(down, sort=False):
        texts = {cell[across]: _text(cell, marked) for _, cell in row[::-1].iterrows()}
        rows.append([str(name), *(texts.get(column, "") for column in columns)])
    return markdown_table([down, *columns], rows)


def _text(cell: Any, marked: bool) -> str:
    star = " *" if marked and cell["minus_best_high"] >= 0 else ""
    is_searched = cell["setting"] == "best" and cell["parameters"]
    suffix = f", {cell['parameters']}" if is_searched else ""
    return f"{number(cell['value'])}{star} [{number(cell['low'])}, {number(cell['high'])}]{suffix}"


def metrics(table: pd.DataFrame) -> dict[str, Any]:
    """Return the table's rows, JSON-able: a missing number is None."""
    return {"comparison": table.astype(object).where(table.notna(), None).to_dict("records")}


def tracked(table: pd.DataFrame) -> dict[str, Any]:
    """Return nested metrics for trackers: concepts, setting, probe, similarity, metric."""
    nested: dict[str, Any] = {}
    for row in metrics(table)["comparison"]:
        inner = nested
        for column in ("concepts", "setting", "probe", "similarity"):
            inner = inner.setdefault(row[column], {})
        inner[row["metric"]] = row["value"]
    return nested


def figure(table: pd.DataFrame, folder: Path) -> None:
    """Draw the first setting's values: a row per concept set, a column per metric."""
    from matplotlib.figure import Figure

    rows = table[table["setting"] == table["setting"].iloc[0]]
    metrics, concept_sets = _distinct(rows, "metric"), _distinct(rows, "concepts")
    size = (5.2 * len(metrics), 2.7 * len(concept_sets) + 0.5)
    drawn = Figure(size, layout="constrained")
    grid = drawn.subplots(len(concept_sets), len(metrics), squeeze=False)
    for axes, concepts in zip(grid, concept_sets, strict=True):
        for axis, metric in zip(axes, metrics, strict=True):
            cells = rows[(rows["concepts"] == concepts) & (rows["metric"] == metric)]
            _draw_panel(axis, f"{metric}, {concepts}", cells)
    legend = {"loc": "outside upper center", "ncols": 6, "fontsize": "small", "frameon": False}
    drawn.legend(*grid[0][0].get_legend_handles_labels(), **legend)
    save_figure(drawn, folder, "comparison", dpi=110)


def _draw_panel(axis: Any, title: str, cells: pd.DataFrame) -> None:
    functions, probes = _distinct(cells, "similarity"), _distinct(cells, "probe")
    for i, name in enumerate(functions):
        rows = cells[cells["similarity"] == name]
        shift = 0.7 * ((i + 0.5) / len(functions) - 0.5)
        at = [probes.index(probe) + shift for probe in rows["probe"]]
        errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        style: dict[str, Any] = {"marker": MARKERS[i % len(MARKERS)], "color": str(0.1 * (i % 7))}
        style |= {"markerfacecolor": "white" if i % 2 else None, "label": name}
        axis.errorbar(at, rows["value"], yerr=errors, linestyle="none", markersize=5, **style)
    axis.set_xticks(range(len(probes)), [p.replace("_", "\n") for p in probes], fontsize="small")
    axis.set_title(title, fontsize="medium")
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", color="0.9")


def _distinct(rows: pd.DataFrame, column: str) -> list[Any]:
    return list(dict.fromkeys(rows[column]))
