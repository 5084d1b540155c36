"""Score labels of units by all scorers, and collect tables and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from clipdissect.errors import DissectError
from clipdissect.results.formulas import labels_of, read, to_text
from clipdissect.results.tables import ResultTables
from clipdissect.scores.base import Scorer, Unavailable
from clipdissect.scores.held_out import HeldOut
from clipdissect.scores.layer_confidence import Confidences, confidences
from clipdissect.scores.layers import LABELS, LayerScores, score_layer
from clipdissect.scores.scorers import ScoreOptions
from clipdissect.scores.summary import differences, minus, pooled, summarise
from clipdissect.utils.progress import progress


@dataclass(frozen=True)
class Labels:
    """Labels to score.

    Args:
        name: of the method, or the file.
        descriptions: `layer, unit, description`, for labels of several texts `formula` (see
            `results.formulas`), and for confidences `similarity, margin`.
        vocabulary: what they were chosen from; empty if unknown.
        result: what made them, if they were made from a part of the images.
        note: a caveat.
    """

    name: str
    descriptions: pd.DataFrame
    vocabulary: tuple[str, ...] = ()
    result: ResultTables | None = None
    note: str = ""


@dataclass(frozen=True)
class Scored:
    """Scores per label set and layer.

    `not_scored` says why scorers were left out.
    """

    labels: list[Labels]
    layers: list[dict[str, LayerScores]]  # of each label set
    scorers: list[Scorer]
    not_scored: dict[str, str]
    confidences: Confidences
    options: ScoreOptions

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return `scores` of the first labels and, of several, `against` with the others'."""
        tables = [
            _table(labels.descriptions, layers)
            for labels, layers in zip(self.labels, self.layers, strict=True)
        ]
        result = {"scores": self.confidences.add_to(tables[0])}
        if len(tables) > 1:
            named = zip(self.labels[1:], tables[1:], strict=True)
            others = [table.assign(labels=labels.name) for labels, table in named]
            result["against"] = pd.concat(others, ignore_index=True)
        return result

    def metrics(self) -> dict[str, Any]:
        """Return JSON-able means with intervals, controls and differences to other labels."""
        resampling = self.options.resampling
        per_set = [pooled(layers) for layers in self.layers]
        of_all = [
            {layer: summarise(scores, resampling) for layer, scores in layers.items()}
            for layers in per_set
        ]
        names = [labels.name for labels in self.labels]
        return {
            "labels": names[0],
            "layers": of_all[0],
            "against": dict(zip(names[1:], of_all[1:], strict=True)),
            "differences": {
                name: {
                    layer: differences(scores, resampling)
                    for layer, scores in pooled(self._minus(number)).items()
                }
                for number, name in enumerate(names[1:], 1)
            },
            "confidence": self.confidences.metrics,
            "not_scored": self.not_scored,
            "bootstrap": {"kind": "percentile", **asdict(resampling)},
        }

    def _minus(self, number: int) -> dict[str, LayerScores]:
        """Return the first labels' scores minus those of others, by unit."""
        result: dict[str, LayerScores] = {}
        for layer, scores in self.layers[0].items():
            own, other = (_rows(self.labels[i], layer)["unit"] for i in (0, number))
            rows = pd.Index(other).get_indexer(pd.Index(own))
            result[layer] = minus(scores, self.layers[number][layer], rows)
        return result


def score_labels(labels: Sequence[Labels], held_out: HeldOut, options: ScoreOptions) -> Scored:
    """Score the labels of the target's layers by every scorer that has its inputs.

    Confidences are of the first labels.

    Raises:
        DissectError: labels of units that a layer doesn't have, or twice of one, or none that a
            score of `options.scores` accepts.
    """
    layers = held_out.target.layers
    for of_set in labels:
        for layer in layers:
            count = held_out.activations(layer, held_out.test[:1]).shape[1]
            _check_units(of_set, layer, count)
    scorers, not_scored = _with_texts(*options.scorers(held_out), labels, options)
    with progress(len(labels) * len(layers) * len(scorers), "scores", "score") as bar:
        found = [
            {layer: _score_layer(scorers, layer, of_set, options, bar.update) for layer in layers}
            for of_set in labels
        ]
    own = confidences(
        labels[0].descriptions,
        _table(labels[0].descriptions, found[0]),
        held_out.target,
        next((scorer for scorer in scorers if scorer.name == "simulation"), None),
        options,
    )
    return Scored(list(labels), found, scorers, not_scored, own, options)


def _with_texts(
    scorers: Sequence[Scorer],
    not_scored: Mapping[str, str],
    labels: Sequence[Labels],
    options: ScoreOptions,
) -> tuple[list[Scorer], dict[str, str]]:
    """Return the scorers that accept any description, and why others are missing."""
    all_labels = (label for of in labels for label in labels_of(of.descriptions) if label)
    texts = list(dict.fromkeys(all_labels))
    chosen, missing = [], dict(not_scored)
    for scorer in scorers:
        if any(scorer.accepts(text) for text in texts):
            chosen.append(scorer)
            continue
        reason = "no unit has a description"
        if texts:
            example = to_text(read(texts[0]))
            few = f"none of the {len(texts)} descriptions, such as '{example}', is one"
            reason = f"it takes {scorer.takes}; {few}"
        if options.scores:
            raise Unavailable(f"{scorer.name}: {reason}")
        missing[scorer.name] = reason
    return chosen, missing


def _score_layer(
    scorers: Sequence[Scorer],
    layer: str,
    labels: Labels,
    options: ScoreOptions,
    done: Callable[[], Any],
) -> LayerScores:
    """Merge the columns of all scorers, and call `done` after each."""
    rows = _rows(labels, layer)
    merged: dict[str, dict[str, Any]] = {}
    for scorer in scorers:
        found = score_layer(scorer, layer, rows, labels.vocabulary, options.draws, options.seed)
        for name, columns in found.items():
            merged.setdefault(name, {}).update(columns)
        done()
    return merged


def _rows(labels: Labels, layer: str) -> pd.DataFrame:
    table = labels.descriptions
    rows: pd.DataFrame = table[table["layer"] == layer]
    return rows


def _check_units(labels: Labels, layer: str, count: int) -> None:
    units = _rows(labels, layer)["unit"]
    wrong = units[~units.isin(range(count))]
    if len(wrong):
        raise DissectError(
            f"{labels.name} has layer {layer}, unit {wrong.iloc[0]}, but the layer has {count} "
            "units, which count from 0: the labels are of another network, or count from 1"
        )
    if not units.is_unique:
        twice = units[units.duplicated()].iloc[0]
        raise DissectError(f"{labels.name} has layer {layer}, unit {twice} more than once")


def _table(rows: pd.DataFrame, layers: Mapping[str, LayerScores]) -> pd.DataFrame:
    """Return `layer, unit, description` and a column per score, of the scored layers."""
    parts = []
    for layer, scores in layers.items():
        part = rows.loc[rows["layer"] == layer, ["layer", "unit", "description"]]
        parts.append(part.reset_index(drop=True).assign(**scores.get(LABELS, {})))
    table: pd.DataFrame = pd.concat(parts, ignore_index=True)
    return table
