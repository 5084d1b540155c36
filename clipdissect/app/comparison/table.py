"""Scores per probe, concept set and similarity function against a layer's class names."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from clipdissect.evaluation import Resampling, Units, difference, interval, values
from clipdissect.evaluation.bootstrap import Distributions, distributions, intervals
from clipdissect.evaluation.measures import METRICS
from clipdissect.evaluation.units import ANY
from clipdissect.probe import Probe

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
