"""Scores of every probe, concept set and similarity function against a layer's class names."""

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

AVERAGE = "average"  # of all probes: the paper's Table 3 counts a union beside its parts
APART = "average without unions"
SHARES = frozenset(metric.name for metric in METRICS if metric.is_share)
UNSEARCHED = "default, on the units that best is judged on"
NUMBERS = ("value", "low", "high", "minus_best", "minus_best_low", "minus_best_high")


@dataclass(frozen=True, eq=False)
class Cell:
    """One way to label the layer, and how right its labels are.

    Args:
        probe, concepts, similarity: their names in the table.
        setting: `default`, or `best` hyperparameters, or `UNSEARCHED`.
        parameters: that were chosen, in words.
        images: of the probe.
        units: the units it is judged on.
    """

    probe: str
    concepts: str
    similarity: str
    setting: str
    parameters: str
    images: int
    units: Units


def judged(units: Units) -> Units:
    """The units with what the comparison needs: whether each is right, and the cosines."""
    kept = ("layer", "unit", "truth", "description", "right", f"right{ANY}")
    wanted = [str(c) for c in units.table if c in kept or str(c).endswith("_cos")]
    named = ("top1", f"top1{ANY}")
    reasons = {k: v for k, v in units.reasons.items() if k in named or k.endswith("_cos")}
    return Units(units.table[wanted], reasons)


def best_of(
    candidates: Sequence[Cell],
    metric: str,
    tuning: Int[np.ndarray, " some"],
    report: Int[np.ndarray, " others"],
) -> Cell:
    """The candidate with the best metric on the tuning units, judged on the others.

    Args:
        candidates: one setting each, of all units.
        metric: `top1` or a cosine's name.
        tuning, report: numbers of the units.
    """

    def score(cell: Cell) -> float:
        value = values(cell.units.take(tuning))[metric]
        return -math.inf if value is None else float(value)

    chosen = max(candidates, key=score)
    return Cell(
        chosen.probe,
        chosen.concepts,
        chosen.similarity,
        "best",
        chosen.parameters,
        chosen.images,
        chosen.units.take(report),
    )


def unsearched(default: Cell, report: Int[np.ndarray, " others"]) -> Cell:
    """Return the default's cell on the units of the best one's, which may be no better.

    Args:
        default: of all units.
        report: numbers of the units that `best_of` judges on.
    """
    return replace(default, setting=UNSEARCHED, units=default.units.take(report))


def unions_beside_parts(probes: Mapping[str, Probe]) -> list[str]:
    """Names of the probes whose parts, or one of them, are among the probes too."""
    alone = {(probe.name, probe.images) for probe in probes.values()}
    return [
        name
        for name, probe in probes.items()
        if any((part.name, part.images) in alone for part in probe.parts)
    ]


def table(cells: Sequence[Cell], how: Resampling, unions: Collection[str] = ()) -> pd.DataFrame:
    """One row a cell and metric, with intervals and the paired difference to the best function.

    The best function of a probe, concept set and setting is that with the largest value. The
    average over probes has the interval of the mean of the probes' values in the same resampled
    units. The paper's counts a union of probes beside its parts, which counts their images twice:
    where there is one, the average without it stands below.

    Args:
        cells: of the same units for each setting.
        how: the intervals are made.
        unions: probes that `average without unions` leaves out.

    Returns:
        `concepts, setting, similarity, probe, images, parameters, units, metric, value, low, high,
        best, minus_best, minus_best_low, minus_best_high`.
    """
    rows: list[dict[str, Any]] = []
    for group in _groups(cells):
        found = {c: (values(c.units), distributions(c.units, how)) for c in group}
        entries = [_entry(c, *both) for c, both in found.items()] + list(_averages(found, AVERAGE))
        apart = {c: both for c, both in found.items() if c.probe not in unions}
        if apart and len(apart) < len(found):
            entries += _averages(apart, APART)
        rows += _with_differences(entries, how)
    return framed(rows)


def framed(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return the rows as a table; an undefined number is NaN, also where a column has no other."""
    table: pd.DataFrame = pd.DataFrame(rows)
    found: pd.DataFrame = table.astype({name: float for name in NUMBERS if name in table})
    return found


@dataclass(frozen=True)
class _Entry:
    about: dict[str, Any]
    values: Mapping[str, float]
    drawn: Distributions
    units: tuple[Units, ...]  # of one probe; of an average those of each


def _groups(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Cells of one concept set and setting, which are compared."""
    for key in dict.fromkeys((c.concepts, c.setting) for c in cells):
        yield [c for c in cells if (c.concepts, c.setting) == key]


def _entry(cell: Cell, found: Mapping[str, Any], drawn: Distributions) -> _Entry:
    about = {
        "concepts": cell.concepts,
        "setting": cell.setting,
        "similarity": cell.similarity,
        "probe": cell.probe,
        "images": cell.images,
        "parameters": cell.parameters,
        "units": len(cell.units.table),
    }
    known = {m: found[m] for m in drawn if found[m] is not None}
    return _Entry(about, known, drawn, (cell.units,))


def _averages(
    found: Mapping[Cell, tuple[dict[str, Any], Distributions]], called: str
) -> Iterator[_Entry]:
    for name in dict.fromkeys(c.similarity for c in found):
        of = [_entry(c, *both) for c, both in found.items() if c.similarity == name]
        metrics = [m for m in of[0].values if all(m in e.values for e in of)]
        about = of[0].about | {"probe": called, "images": None, "parameters": ""}
        means = {m: float(np.mean([e.values[m] for e in of])) for m in metrics}
        drawn = {m: np.mean([e.drawn[m] for e in of], axis=0) for m in metrics}
        yield _Entry(about, means, drawn, tuple(units for e in of for units in e.units))


def _with_differences(entries: Sequence[_Entry], how: Resampling) -> Iterator[dict[str, Any]]:
    for entry in entries:
        spans = _spans(entry, how)
        lead: dict[str, dict[str, Any]] = {}  # over a function in all metrics, by its name
        for metric, value in entry.values.items():
            probe = entry.about["probe"]
            rivals = [e for e in entries if e.about["probe"] == probe and metric in e.values]
            best = max(rivals, key=lambda e: e.values[metric])
            name = best.about["similarity"]
            if name not in lead:
                lead[name] = _minus(entry, best, how)
            between = lead[name][metric]
            yield entry.about | {
                "metric": metric,
                "value": value,
                "low": spans[metric]["low"],
                "high": spans[metric]["high"],
                "best": name,
                "minus_best": between["value"],
                "minus_best_low": between["low"],
                "minus_best_high": between["high"],
            }


def _spans(entry: _Entry, how: Resampling) -> dict[str, Any]:
    """A row's intervals, by metric.

    Of an average of shares the means of the probes' ends: as wide as if the probes' errors were all
    the same, and never of no width.
    """
    each = [intervals(units, entry.drawn, how.confidence) for units in entry.units]
    if len(each) == 1:
        return each[0]
    return {
        metric: {end: float(np.mean([one[metric][end] for one in each])) for end in ("low", "high")}
        if metric in SHARES
        else interval(entry.drawn[metric], how.confidence)
        for metric in entry.values
    }


def _minus(entry: _Entry, best: _Entry, how: Resampling) -> dict[str, Any]:
    """A row minus the best one's, by metric, with paired intervals; a probe's over common units."""
    if entry is best:
        return {metric: {"value": 0.0, "low": 0.0, "high": 0.0} for metric in entry.values}
    if len(entry.units) == len(best.units) == 1:
        return difference(entry.units[0], best.units[0], how, (entry.drawn, best.drawn))
    return {
        metric: {"value": value - best.values[metric]}
        | interval(entry.drawn[metric] - best.drawn[metric], how.confidence)
        for metric, value in entry.values.items()
        if metric in best.values
    }
