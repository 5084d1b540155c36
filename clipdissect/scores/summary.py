"""Means of scores with intervals, and what they are above control labels and other labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from clipdissect.evaluation.bootstrap import Resampling, mean_intervals
from clipdissect.scores.layers import LABELS, LayerScores

ALL = "all layers"
LEAST_UNITS = 10  # of an interval: the bootstrap's of fewer is too short


def pooled(layers: Mapping[str, LayerScores]) -> dict[str, LayerScores]:
    """Return the scores of each layer and, of several layers, of all units together."""
    if len(layers) < 2:
        return dict(layers)
    parts = list(layers.values())
    sizes = [len(next(iter(part[LABELS].values()), ())) for part in parts]
    names = dict.fromkeys(name for part in parts for name in part)
    together: dict[str, dict[str, Float[np.ndarray, " units"]]] = {}
    for name in names:
        columns = dict.fromkeys(c for part in parts for c in part.get(name, {}))
        together[name] = {
            column: np.concatenate(
                [
                    part.get(name, {}).get(column, np.full(size, np.nan))
                    for part, size in zip(parts, sizes, strict=True)
                ]
            )
            for column in columns
        }
    return {**layers, ALL: together}


def summarise(scores: LayerScores, resampling: Resampling) -> dict[str, Any]:
    """Return JSON-able means per score, with those of controls and what labels have over them.

    `reached_by` lists the controls that the labels aren't above for certain: the interval of the
    difference, paired by unit, includes 0. Scores that no unit has are left out.
    """
    names, matrix = [], []
    columns = [column for column, own in scores.get(LABELS, {}).items() if not np.isnan(own).all()]
    for column in columns:
        own = scores[LABELS][column]
        names.append((column, LABELS, ""))
        matrix.append(own)
        for control in (name for name in scores if name != LABELS):
            names += [(column, control, ""), (column, control, "difference")]
            matrix += [scores[control][column], own - scores[control][column]]
    found = dict(zip(names, _intervals(matrix, resampling), strict=True))
    result: dict[str, Any] = {}
    for column in columns:
        of_controls = {
            control: {
                **found[column, control, ""],
                "difference": found[column, control, "difference"],
            }
            for control in scores
            if control != LABELS
        }
        result[column] = {
            **found[column, LABELS, ""],
            "controls": of_controls,
            "reached_by": [c for c, v in of_controls.items() if is_reached(v["difference"])],
        }
    return result


def minus(
    first: LayerScores,
    second: Mapping[str, Mapping[str, Float[np.ndarray, " others"]]],
    rows: Int[np.ndarray, " units"],
) -> dict[str, dict[str, Float[np.ndarray, " units"]]]:
    """Return the first labels' scores minus the second's, NaN for units that either lacks.

    Args:
        rows: of the second labels per unit of the first, which may be others; -1: none.
    """
    own, other = first.get(LABELS, {}), second.get(LABELS, {})
    shared = [column for column in own if column in other]
    paired = {column: np.where(rows < 0, np.nan, other[column][rows]) for column in shared}
    return {LABELS: {column: own[column] - paired[column] for column in shared}}


def differences(minus: LayerScores, resampling: Resampling) -> dict[str, Any]:
    """Return JSON-able means of `minus` with intervals, over the units that both have."""
    columns = minus[LABELS]
    known = {column: values for column, values in columns.items() if not np.isnan(values).all()}
    return dict(zip(known, _intervals(list(known.values()), resampling), strict=True))


def is_reached(difference: Mapping[str, Any]) -> bool:
    """Return whether an interval isn't above 0; an undefined one tells nothing."""
    return difference["low"] is not None and bool(difference["low"] <= 0)


def _intervals(
    columns: Sequence[Float[np.ndarray, " units"]], resampling: Resampling
) -> list[dict[str, Any]]:
    found = mean_intervals(np.stack(columns, axis=1), resampling) if columns else []
    few = {"low": None, "high": None, "reason": f"fewer than {LEAST_UNITS} units have it"}
    return [mean if mean["units"] >= LEAST_UNITS else {**mean, **few} for mean in found]
