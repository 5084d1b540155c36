"""The probability that each scored description is right, learned per layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipdissect.datasets.class_names import is_a_name
from clipdissect.errors import DissectError
from clipdissect.results.run_files import write_table
from clipdissect.scores.base import Scorer
from clipdissect.scores.confidence import ConfidenceResult, ConfidenceSettings, confidence_of_run
from clipdissect.scores.layers import chance_level
from clipdissect.scores.risk_coverage import figure
from clipdissect.scores.scorers import ScoreOptions
from clipdissect.targets import Target
from clipdissect.utils.figures import save_figure

COLUMN, SCORE = "confidence", "simulation"


@dataclass(frozen=True)
class Confidences:
    """Results by layer, and why other layers have none."""

    layers: dict[str, ConfidenceResult] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add_to(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Return the table of scores with a column of confidences."""
        if not self.layers:
            return scores
        column = pd.Series(np.nan, scores.index)
        for layer, result in self.layers.items():
            column[scores["layer"] == layer] = result.column.to_numpy()
        table: pd.DataFrame = scores.assign(**{COLUMN: column})
        return table

    @property
    def metrics(self) -> dict[str, Any]:
        found = {layer: result.metrics for layer, result in self.layers.items()}
        return {**found, "missing": self.missing}

    def write(self, folder: Path) -> None:
        """Write the risk-coverage curves as a table and figures."""
        if not self.layers:
            return
        curves = [result.curve.assign(layer=layer) for layer, result in self.layers.items()]
        write_table(folder / "risk_coverage.csv", pd.concat(curves, ignore_index=True))
        for layer, result in self.layers.items():
            name = f"risk_coverage_{layer.replace('/', '_')}"
            save_figure(figure(result.curve, result.bands), folder, name)


def confidences(
    descriptions: pd.DataFrame,
    scores: pd.DataFrame,
    target: Target,
    scorer: Scorer | None,
    options: ScoreOptions,
) -> Confidences:
    """Learn confidences from class names where a layer has them, else from simulation scores.

    A description whose score is above the 95th percentile of shuffled labels' counts as right.

    Args:
        descriptions: of the target's layers.
        scores: the table of scores of the same units.
        scorer: that of simulation scores; None: only layers of classes have confidences.
    """
    found = Confidences()
    for layer in target.layers:
        rows = descriptions[descriptions["layer"] == layer].reset_index(drop=True)
        of_layer = scores[scores["layer"] == layer].reset_index(drop=True)
        try:
            truth = _truth(layer, rows, of_layer, target, scorer, options)
            found.layers[layer] = confidence_of_run(rows, **truth, resampling=options.resampling)
        except DissectError as error:
            found.missing[layer] = str(error)
    return found


def _truth(
    layer: str,
    rows: pd.DataFrame,
    scores: pd.DataFrame,
    target: Target,
    scorer: Scorer | None,
    options: ScoreOptions,
) -> dict[str, Any]:
    """Return what tells right from wrong descriptions, as arguments of `confidence_of_run`."""
    names = target.class_names
    if layer == target.class_layer and names and rows["unit"].max() < len(names):
        classes = [names[unit] for unit in rows["unit"]]
        right = pd.Series(is_a_name(rows["description"], classes), rows.index, dtype=float)
        return {"right": right.where(rows["description"] != "")}
    if scorer is None or SCORE not in scores:
        raise DissectError("it takes class names or simulation scores (scorer.encoder=NAME)")
    threshold = chance_level(scorer, layer, rows, options.draws, options.seed)
    settings = ConfidenceSettings(threshold=threshold.get(SCORE, np.nan), seed=options.seed)
    return {"score": scores[SCORE].astype(float), "settings": settings}
