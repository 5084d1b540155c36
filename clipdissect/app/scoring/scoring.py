"""Score all labels by all scorers, and collect tables and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from clipdissect.app.evaluation_job import resampling_of
from clipdissect.app.scoring.confidence import Confidences, confidences
from clipdissect.app.scoring.labels import Labels
from clipdissect.app.scoring.output import score_table
from clipdissect.app.scoring.scorers import Make
from clipdissect.errors import unknown
from clipdissect.scores.base import Scorer, Unavailable
from clipdissect.scores.held_out import HeldOut
from clipdissect.scores.layers import Drawing, LayerScores, score_layer
from clipdissect.scores.summary import differences, pooled, summarise


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

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return `scores` of the first labels and, of several, `against` with the others'."""
        tables = [
            score_table(labels.descriptions, layers)
            for labels, layers in zip(self.labels, self.layers, strict=True)
        ]
        result = {"scores": self.confidences.add_to(tables[0])}
        if len(tables) > 1:
            named = zip(self.labels[1:], tables[1:], strict=True)
            others = [table.assign(labels=labels.name) for labels, table in named]
            result["against"] = pd.concat(others, ignore_index=True)
        return result

    def metrics(self, config: Any) -> dict[str, Any]:
        """Return JSON-able means with intervals, controls and differences to other labels."""
        resampling = resampling_of(config)
        per_set = [pooled(layers) for layers in self.layers]
        of_all = [
            {layer: summarise(scores, resampling) for layer, scores in layers.items()}
            for layers in per_set
        ]
        names = [labels.name for labels in self.labels]
        minus = {
            name: {
                layer: differences(scores, other[layer], resampling)
                for layer, scores in per_set[0].items()
            }
            for name, other in zip(names[1:], per_set[1:], strict=True)
        }
        return {
            "layers": of_all[0],
            "against": dict(zip(names[1:], of_all[1:], strict=True)),
            "differences": minus,
            "confidence": self.confidences.metrics,
            "not_scored": self.not_scored,
            "bootstrap": {"kind": "percentile", **asdict(resampling)},
        }


def score(
    labels: Sequence[Labels], held_out: HeldOut, config: Any, makers: Mapping[str, Make]
) -> Scored:
    """Score the labels of the target's layers by every scorer that has its inputs."""
    scorers, not_scored = _scorers(config, held_out, makers)
    drawing = Drawing(config.scorer.draws, config.scorer.seed)
    found = [
        {layer: _score_layer(scorers, layer, of_set, drawing) for layer in held_out.target.layers}
        for of_set in labels
    ]
    first = labels[0].descriptions
    own = confidences(
        first,
        score_table(first, found[0]),
        held_out.target,
        next((scorer for scorer in scorers if scorer.name == "simulation"), None),
        drawing,
        resampling_of(config),
    )
    return Scored(list(labels), found, scorers, not_scored, own)


def _scorers(
    config: Any, held_out: HeldOut, makers: Mapping[str, Make]
) -> tuple[list[Scorer], dict[str, str]]:
    """Build the scorers; those that lack an input are an error only if they were asked for."""
    for name in config.scores:
        if name not in makers:
            raise unknown("score", name, makers)
    scorers, missing = [], {}
    for name in config.scores or makers:
        try:
            scorers.append(makers[name](held_out, config))
        except Unavailable as error:
            if config.scores:
                raise
            missing[name] = str(error)
    return scorers, missing


def _score_layer(
    scorers: Sequence[Scorer], layer: str, labels: Labels, drawing: Drawing
) -> LayerScores:
    """Merge the columns of all scorers."""
    table = labels.descriptions
    rows = table[table["layer"] == layer]
    merged: dict[str, dict[str, Any]] = {}
    for scorer in scorers:
        found = score_layer(scorer, layer, rows, labels.vocabulary, drawing)
        for name, columns in found.items():
            merged.setdefault(name, {}).update(columns)
    return merged
