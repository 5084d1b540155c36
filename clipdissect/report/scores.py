"""Scores of units and of their descriptions: columns of numbers, joined to a run's units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from clipdissect.errors import DissectError
from clipdissect.report.report_data import rounded
from clipdissect.results.coherence import NAMES
from clipdissect.scores.label_metrics import METRICS

if TYPE_CHECKING:
    from clipdissect.report.page import TextTable
    from clipdissect.report.run import Run

KEYS = ["layer", "unit"]
CONFIDENCE = "confidence"
# Of two dozen metrics of labels a page shows those that pass their checks; docs/metric_checks.md.
IN_FILE_ONLY = METRICS.keys() - {"iou", "f1", "auprc", "correlation"}
SCORED = "scored"  # the description that scores are of, where it isn't the run's


@dataclass(frozen=True)
class Score:
    """A column of scores: its title, a shorter one for cards, and its definition, if known."""

    name: str
    title: str
    definition: str = ""
    short: str = ""
    smaller_is_better: bool = False


_HELD_OUT = "of the unit's activations on held-out images and their prediction from the description"
_KNOWN = (
    Score("clarity", "clarity", "mean cosine of pairs of the unit's 20 top images."),
    Score(
        "polysemanticity",
        "polysemanticity",
        "1 minus the cosine of the centres of two clusters of the top images: large for a unit "
        "with two kinds of images.",
        short="polysem.",
        smaller_is_better=True,
    ),
    Score(
        "redundancy",
        "redundancy",
        "largest cosine of the mean of the unit's top images and another unit's.",
        smaller_is_better=True,
    ),
    Score(
        "monosemanticity",
        "monosemanticity",
        "mean cosine of pairs of all images, weighted by the unit's activations.",
        short="monosem.",
    ),
    Score("simulation", "simulation", f"correlation {_HELD_OUT}."),
    Score(
        "simulation_spearman",
        "simulation, ranks",
        f"rank correlation {_HELD_OUT}.",
        short="sim. ranks",
    ),
    Score("ablation", "ablation", "share of the network's loss kept with predicted activations."),
    Score("cosy_auc", "CoSy AUC", "how often images of the description activate the unit more."),
    Score("cosy_mad", "CoSy MAD", "by how many standard deviations they activate it more."),
    Score("iou", "IoU", "overlap of the unit's top images and those that the description fits."),
    Score("f1", "F1", "harmonic mean of recall and precision of these images."),
    Score("correlation", "label corr.", "correlation of the activations with the label."),
    Score("auprc", "AUPRC", "area under the precision-recall curve of the unit's top images."),
    Score(CONFIDENCE, "confidence", "how sure the description is, from 0 to 1."),
)
_BY_NAME = {score.name: score for score in _KNOWN}


def score_of(name: str) -> Score:
    return _BY_NAME.get(name) or Score(name, name.replace("_", " "))


@dataclass(frozen=True)
class Mean:
    """The mean of a layer's units, and the ends of its interval, if known."""

    score: Score
    value: float
    low: float | None
    high: float | None


def join(descriptions: pd.DataFrame, units: pd.DataFrame, scored: pd.DataFrame) -> pd.DataFrame:
    """Return a row per unit of the descriptions: layer, unit, scores, and `SCORED`.

    Args:
        units: `units.csv`; may lack all scores.
        scored: `scores.csv`, with columns of any names. If a unit has several rows, the one of the
            run's description is used, else the first.

    Raises:
        DissectError: `scored` has no column layer or unit.
    """
    described = descriptions[[*KEYS, "description"]].drop_duplicates(KEYS)
    table = described[KEYS].assign(**{SCORED: ""})
    in_descriptions = [CONFIDENCE] if CONFIDENCE in descriptions else []
    for part in (
        units[[*KEYS, *(name for name in NAMES if name in units)]],
        _with_numbers(descriptions, in_descriptions),
        _of_descriptions(scored, described),
    ):
        if len(part):
            table = table.drop(columns=[c for c in part if c in table and c not in KEYS])
            table = table.merge(part.drop_duplicates(KEYS), "left", on=KEYS)
    complete: pd.DataFrame = table.assign(**{SCORED: table[SCORED].fillna("")})
    return complete


def _of_descriptions(scored: pd.DataFrame, described: pd.DataFrame) -> pd.DataFrame:
    """Return the number columns of `scores.csv`, and `SCORED`; rows of the run's texts first."""
    for key in KEYS:
        if key not in scored:
            raise DissectError(f"scores.csv has no column {key}")
    left_out = {*KEYS, "description", *IN_FILE_ONLY}
    table = _with_numbers(scored, [str(c) for c in scored if c not in left_out])
    if "description" not in scored:
        unknown: pd.DataFrame = table.assign(**{SCORED: ""})
        return unknown
    own = scored[KEYS].merge(described, "left", on=KEYS)["description"].to_numpy(dtype=object)
    texts = scored["description"].to_numpy(dtype=object)
    table[SCORED] = np.where(texts == own, "", texts)
    order = np.argsort(table[SCORED].to_numpy() != "", kind="stable")
    ordered: pd.DataFrame = table.iloc[order]
    return ordered


def _with_numbers(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return layer, unit and those of the named columns that are numbers."""
    columns = {name: _numbers(table[name]) for name in names}
    known = {name: numbers for name, numbers in columns.items() if numbers is not None}
    result: pd.DataFrame = table[KEYS].assign(**known)
    return result


def _numbers(column: pd.Series) -> pd.Series | None:
    """Return a column's numbers; None if any cell is a text, or all are empty."""
    numbers = pd.to_numeric(column, errors="coerce")
    is_known = numbers.notna() | column.astype(str).str.lower().isin(["", "nan"])
    return numbers if is_known.all() and np.isfinite(numbers).any() else None


def names_of(runs: Sequence[Run]) -> list[str]:
    """Return the names of the runs' scores, in their order."""
    return list(dict.fromkeys(name for run in runs for name in run.score_names))


def page_scores(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return what a page's scripts need to know about each of its scores."""
    return [
        {
            "name": score.name,
            "title": score.title,
            "short": score.short or score.title,
            "words": score.definition,
            "low": score.smaller_is_better,
        }
        for score in map(score_of, names_of(runs))
    ]


def side_scores(
    run: Run, rows: pd.DataFrame, names: Sequence[str], texts: TextTable
) -> dict[str, Any]:
    """Return `c`, the rows' values of each named score (None: the layer has none), and `e`.

    `e`, where they differ, are the descriptions that the scores are of.
    """
    if not names:
        return {}
    if not run.score_names:
        return {"c": [None] * len(names)}
    table = rows[KEYS].merge(run.scores, "left", on=KEYS)
    columns = [[*map(rounded, table[name])] if name in table else [] for name in names]
    values = [None if all(v is None for v in column) else column for column in columns]
    scored = [texts.number(text) for text in table[SCORED].fillna("")]
    return {"c": values, **({"e": scored} if max(scored, default=-1) >= 0 else {})}


def means(run: Run, layer: str) -> list[Mean]:
    """Return the means of a layer's scores, with intervals from `metrics.json`."""
    rows = run.scores[run.scores["layer"] == layer]
    result = []
    for name in run.score_names:
        values = rows[name].to_numpy(float)
        values = values[np.isfinite(values)]
        if len(values):
            ends = _interval(run.metrics, layer, name)
            result.append(Mean(score_of(name), float(values.mean()), *ends))
    return result


def _interval(metrics: Mapping[str, Any], *keys: str) -> tuple[float | None, float | None]:
    value: Any = metrics
    for key in ("layers", *keys):
        value = value.get(key) if isinstance(value, dict) else None
    return (value.get("low"), value.get("high")) if isinstance(value, dict) else (None, None)
