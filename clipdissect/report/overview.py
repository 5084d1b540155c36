"""Summary statistics of each layer's labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool

from clipdissect.evaluation.layers import null_metrics
from clipdissect.report.run import Run
from clipdissect.results.describe import NULL
from clipdissect.results.flags import DEAD, FEW, SATURATED, TIED, has_flag

BINS = 30
FREQUENT = 10
# Relative to the layer's median margin: the scale of scores differs between functions.
LOW_MARGIN = 0.1


@dataclass(frozen=True)
class Histogram:
    """Counts in equal bins of a range."""

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LayerOverview:
    """Statistics of a layer; counts are of units unless stated otherwise.

    `different` and `among_runners_up` count distinct texts, without and with runners-up;
    `near` counts any synonym of the class name. `null_95`: see `evaluation.layers.null_metrics`.
    """

    name: str
    units: int
    dead: int
    tied: int
    few: int
    saturated: int
    low_margin: int
    different: int
    among_runners_up: int
    concepts: int | None
    frequent: dict[str, int]
    scores: Histogram | None
    right: int | None = None
    near: int | None = None
    top5: int | None = None
    classes_in_concepts: int | None = None
    null_95: float | None = None
    above_null: float | None = None

    @property
    def coverage(self) -> float | None:
        """Share of the concept set that describes at least one unit."""
        return self.different / self.concepts if self.concepts else None


def overview(run: Run) -> list[LayerOverview]:
    return [_layer(run, layer) for layer in run.layers]


def low_margins(rows: pd.DataFrame) -> Bool[np.ndarray, " units"]:
    """Return which units have at most a tenth of the median margin of the layer's live units."""
    margins = rows["margin"].to_numpy(float)
    if np.isnan(margins).all():
        return np.zeros(len(rows), dtype=bool)
    return np.asarray(margins <= LOW_MARGIN * float(np.nanmedian(margins)))


def histogram_of(values: pd.Series) -> Histogram | None:
    """Return the histogram of the finite values; None if there are none."""
    finite = values.to_numpy(float)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return None
    counts, edges = np.histogram(finite, BINS)
    return Histogram(float(edges[0]), float(edges[-1]), tuple(counts.tolist()))


def _layer(run: Run, name: str) -> LayerOverview:
    rows = run.rows(name)
    not_dead = rows[~has_flag(rows, DEAD)]
    described = not_dead[not_dead["description"] != ""]
    null = null_metrics(not_dead) if NULL in rows else {}
    texts = {text for column, _ in run.columns for text in described[column] if text}
    frequent = described["description"].value_counts()[:FREQUENT]
    truth = run.ground_truth(name)
    final = run.metrics.get("final_layer", {})
    final = final if final.get("layer") == name else {}
    top5 = final.get("top5")
    return LayerOverview(
        name=name,
        units=len(rows),
        dead=int(has_flag(rows, DEAD).sum()),
        tied=int(has_flag(rows, TIED).sum()),
        few=int(has_flag(rows, FEW).sum()),
        saturated=int(has_flag(rows, SATURATED).sum()),
        low_margin=int(low_margins(rows).sum()),
        different=int(described["description"].nunique()),
        among_runners_up=len(texts),
        concepts=run.run.get("concepts", {}).get("texts"),
        frequent={str(text): int(count) for text, count in frequent.items()},
        scores=histogram_of(rows["similarity"]),
        right=None if truth is None else int(truth["right"].sum()),
        near=None if truth is None else int(truth["right_any_synonym"].sum()),
        top5=None if top5 is None else round(top5 * len(rows)),
        classes_in_concepts=final.get("classes_in_concepts"),
        null_95=null.get("null_95"),
        above_null=null.get("above_null"),
    )
