"""What a layer's labels look like as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool

from clipdissect.evaluation.layers import null_metrics
from clipdissect.report.loading import Run
from clipdissect.report.truths import truth_of
from clipdissect.results.describe import NULL
from clipdissect.results.flags import DEAD, FEW, SATURATED, TIED, has_flag

BINS = 30
FREQUENT = 10
# Of the layer's median margin: scores of different functions have different scales.
LOW_MARGIN = 0.1
COUNTED = {"dead": DEAD, "tied": TIED, "few": FEW, "saturated": SATURATED}


@dataclass(frozen=True)
class Histogram:
    """Counts in equal parts of a range.

    Args:
        low, high: the range.
        counts: a number each.
    """

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """A layer's numbers.

    Args:
        name: its own.
        units: how many.
        dead, tied, few, saturated, low_margin: how many units have that flag.
        different: descriptions.
        among_runners_up: different texts among all descriptions and runners-up.
        concepts: in the set; None where it isn't known.
        frequent: description to how many units have it, most frequent first.
        scores: of the best descriptions; None where there are none.
        right, top5: how many labels are, and have among their best five, the class's name; None
            without ground truth.
        near: how many labels are any of the class's names.
        classes_in_concepts: how many class names could be found at all; None where unknown.
        null_95, above_null: of `evaluation.layers.null_metrics`; None where the run has no null.
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
    def live(self) -> int:
        """Units that aren't dead."""
        return self.units - self.dead

    @property
    def coverage(self) -> float | None:
        """Share of the concepts that describe some unit, 0 to 1."""
        return self.different / self.concepts if self.concepts else None


def overview(run: Run) -> list[Layer]:
    """Every layer's numbers."""
    return [_layer(run, layer) for layer in run.layers]


def low_margins(rows: pd.DataFrame) -> Bool[np.ndarray, " units"]:
    """Which units' margins are at most a tenth of the median margin of the layer's live units."""
    margins = rows["margin"].to_numpy(float)
    if np.isnan(margins).all():
        return np.zeros(len(rows), dtype=bool)
    found: np.ndarray = margins <= LOW_MARGIN * float(np.nanmedian(margins))
    return found


def histogram_of(values: pd.Series, bins: int = BINS) -> Histogram | None:
    """The finite values' histogram; None where there are none."""
    finite = values.to_numpy(float)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return None
    counts, edges = np.histogram(finite, bins)
    return Histogram(float(edges[0]), float(edges[-1]), tuple(int(c) for c in counts))


def _layer(run: Run, name: str) -> Layer:
    rows = run.rows(name)
    live = rows[~has_flag(rows, DEAD) & (rows["description"] != "")]
    null = null_metrics(rows[~has_flag(rows, DEAD)]) if NULL in rows else {}
    texts = {text for column, _ in run.columns for text in live[column] if text}
    truth, final = truth_of(run, name), run.metrics.get("final_layer", {})
    judged = final if final.get("layer") == name else {}
    top5 = judged.get("top5")
    return Layer(
        name=name, units=len(rows), low_margin=int(low_margins(rows).sum()),
        **{key: int(has_flag(rows, flag).sum()) for key, flag in COUNTED.items()},
        different=int(live["description"].nunique()), among_runners_up=len(texts),
        concepts=run.run.get("concepts", {}).get("texts"),
        frequent={str(k): int(v) for k, v in live["description"].value_counts()[:FREQUENT].items()},
        scores=histogram_of(rows["similarity"]),
        right=None if truth is None else int(truth["right"].sum()),
        near=None if truth is None else int(truth["right_any_synonym"].sum()),
        top5=None if top5 is None else round(top5 * len(rows)),
        classes_in_concepts=judged.get("classes_in_concepts"),
        null_95=null.get("null_95"), above_null=null.get("above_null"),
    )  # fmt: skip
