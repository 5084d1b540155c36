"""Network Dissection: the concept that overlaps most with a unit's active positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from clipdissect.masks import ConceptMasks, OverlapCounts
from clipdissect.masks.counts import active_by_concept, concept_iou
from clipdissect.masks.units import UnitMasks
from clipdissect.method.masked import MaskMatchingMethod
from clipdissect.results.describe import description_columns


@dataclass(frozen=True, kw_only=True)
class NetworkDissection(MaskMatchingMethod):
    """The concept with the largest intersection over union, over all images of the probe.

    Maps are interpolated bilinearly to the mask's size (half-pixel centres) and thresholded
    there. IoU counts the images annotated in the concept's category; an image-level label masks
    the whole image, and a label of two categories counts in each. Layers of vectors have one
    position per image.

    Extra columns, as in the published files: `category, label, score` and, for the best concept
    of each category, `*-label, *-truth, *-activation, *-intersect, *-iou` (in pixels of the
    category's images). Units count from 0, not 1. Parameters: see `MaskMatchingMethod`.

    Source: Bau et al., "Network Dissection", CVPR 2017, Sec. 2.
    """

    name: ClassVar[str] = "network_dissection"

    def table(
        self, units: UnitMasks, counts: OverlapCounts, concepts: ConceptMasks, top: int
    ) -> pd.DataFrame:
        scores = concept_iou(counts, concepts)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : max(top, 2)]
        best = [[n for n in row.tolist() if scores[u, n] > 0] for u, row in enumerate(order)]
        texts = [[concepts.concepts[n].text for n in row] for row in best]
        values = [[float(scores[u, n]) for n in row] for u, row in enumerate(best)]
        columns: dict[str, Any] = description_columns(texts, values, top, missing_score=0.0)
        first = [concepts.concepts[row[0]] if row else None for row in best]
        columns["category"] = [c.category if c else "" for c in first]
        columns["label"] = [c.label if c else "" for c in first]
        columns["score"] = [row[0] if row else 0.0 for row in values]
        columns |= _by_category(scores, counts, concepts)
        table: pd.DataFrame = pd.DataFrame(columns)
        return table


def _by_category(
    scores: Float[np.ndarray, "units concepts"], counts: OverlapCounts, concepts: ConceptMasks
) -> dict[str, Any]:
    """Return the published columns of each category's best concept; no label if IoU is 0."""
    active = active_by_concept(counts, concepts)
    units = np.arange(len(scores))
    columns: dict[str, Any] = {}
    for number, category in enumerate(concepts.categories):
        in_category = np.flatnonzero(concepts.category == number)
        best = in_category[scores[:, in_category].argmax(1)]
        iou = scores[units, best]
        labels = [concepts.concepts[n].label for n in best]
        columns[f"{category}-label"] = np.where(iou > 0, np.array(labels, dtype=object), "")
        columns[f"{category}-truth"] = concepts.pixels[best]
        columns[f"{category}-activation"] = active[units, best]
        columns[f"{category}-intersect"] = counts.shared[units, best]
        columns[f"{category}-iou"] = iou
    return columns
