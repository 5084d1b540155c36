"""Score a layer's labels next to control labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from clipdissect.results.describe import scatter
from clipdissect.results.formulas import labels_of
from clipdissect.scores.base import Pairs, Scorer
from clipdissect.scores.controls import SHUFFLED, control_labels

LABELS = "labels"

# Per label set (`LABELS` or a control), per score: a value per unit, NaN where undefined.
LayerScores = Mapping[str, Mapping[str, Float[np.ndarray, " units"]]]


def score_layer(
    scorer: Scorer,
    layer: str,
    rows: pd.DataFrame,
    vocabulary: Sequence[str],
    draws: int = 5,
    seed: int = 0,
) -> LayerScores:
    """Return the scores of a layer's labels and of control labels of the same units.

    Units whose description is empty, or none that the scorer accepts, have no score; a layer of
    such units has no columns. Of several draws of a control, each unit has the mean.

    Args:
        rows: `unit, description`, and for labels of several texts `formula`, a row per unit.
        vocabulary: what the labels were chosen from; empty: unknown.
        draws, seed: see `control_labels`.
    """
    described, labels, units = _described(scorer, rows)
    pool = scorer.pool(vocabulary, sorted(set(labels)))
    sets = {LABELS: [labels], **control_labels(labels, pool, draws, seed)}
    found = _score_sets(scorer, layer, units, sets)
    return {
        name: {column: scatter(values, described, np.nan) for column, values in columns.items()}
        for name, columns in found.items()
    }


def chance_level(
    scorer: Scorer,
    layer: str,
    rows: pd.DataFrame,
    draws: int = 5,
    seed: int = 0,
    percentile: float = 95,
) -> dict[str, float]:
    """Return each score's percentile over units with shuffled labels; NaN if it is undefined."""
    _, labels, units = _described(scorer, rows)
    shuffled = control_labels(labels, [], draws, seed).get(SHUFFLED, [])
    sets = {str(number): [texts] for number, texts in enumerate(shuffled)}
    found = _score_sets(scorer, layer, units, sets)
    columns = dict.fromkeys(column for scores in found.values() for column in scores)
    levels = {}
    for column in columns:
        values = np.concatenate([scores[column] for scores in found.values()])
        known = values[~np.isnan(values)]
        levels[column] = float(np.percentile(known, percentile)) if len(known) else np.nan
    return levels


def _described(
    scorer: Scorer, rows: pd.DataFrame
) -> tuple[Bool[np.ndarray, " units"], list[str], Int[np.ndarray, " described"]]:
    """Return which units have a description that can be scored, with labels and numbers."""
    texts = pd.Series(labels_of(rows), rows.index, dtype=object)
    accepted = {text: bool(text) and scorer.accepts(text) for text in texts.unique()}
    described = texts.map(accepted).to_numpy(dtype=bool)
    return described, texts[described].tolist(), rows["unit"].to_numpy()[described]


def _score_sets(
    scorer: Scorer, layer: str, units: np.ndarray, sets: Mapping[str, Sequence[Sequence[str]]]
) -> dict[str, dict[str, Float[np.ndarray, " described"]]]:
    """Score all sets of labels in one call, which computes what texts share once."""
    if not len(units):
        return {name: {} for name in sets}
    drawn = [labels for of_set in sets.values() for labels in of_set]
    numbers = {text: i for i, text in enumerate(dict.fromkeys(t for ts in drawn for t in ts))}
    texts = np.array([numbers[text] for labels in drawn for text in labels], dtype=np.int64)
    scores = scorer.score(layer, Pairs(np.tile(units, len(drawn)), texts), list(numbers))
    result: dict[str, dict[str, Float[np.ndarray, " described"]]] = {name: {} for name in sets}
    for column, values in scores.items():
        rows = iter(values.reshape(len(drawn), len(units)))
        for name, of_set in sets.items():
            result[name][column] = _mean([next(rows) for _ in of_set])
    return result


def _mean(rows: Sequence[np.ndarray]) -> Float[np.ndarray, " described"]:
    """Return the mean of the draws that are defined; NaN if none is."""
    known = ~np.isnan(rows)
    with np.errstate(invalid="ignore"):
        mean: Float[np.ndarray, " described"] = np.nansum(rows, axis=0) / known.sum(0)
    return mean
