"""Network Dissection: the concept whose pixels are those where a unit fires most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from clipdissect.masks import ConceptMasks, OverlapCounts
from clipdissect.masks.counts import active_by_concept, concept_iou
from clipdissect.masks.units import UnitMasks
from clipdissect.method.masked import MaskMatchingMethod, ranked


@dataclass(frozen=True, kw_only=True)
class NetworkDissection(MaskMatchingMethod):
    """The concept with the largest intersection over union, over all images of the probe.

    A unit fires at the positions above its `quantile`; its map is interpolated bilinearly to the
    mask's size (half-pixel centres) and compared with the threshold there. Intersection and union
    are counted over the images that are annotated in the concept's category. A label of the whole
    image is a mask of the whole image. A layer of vectors has one position an image, so that a unit
    fires on whole images, as in the published label files of last layers. A label of two
    categories counts in each on its own.

    Beside our columns there are those of the published files: `category, label, score` and, of the
    best concept of each category, `*-label, *-truth, *-activation, *-intersect, *-iou` (pixels;
    `*-activation` in the images annotated in the category). Units count from 0, not 1.

    Args:
        quantile, detector, least_images, categories, view, memory: see `MaskMatchingMethod`.

    Source: Bau et al., "Network Dissection: Quantifying Interpretability of Deep Visual
    Representations", CVPR 2017, Sec. 2.
    """

    name: ClassVar[str] = "network_dissection"

    def table(
        self, units: UnitMasks, counts: OverlapCounts, concepts: ConceptMasks, top: int
    ) -> pd.DataFrame:
        """The best concepts of each unit."""
        scores = concept_iou(counts, concepts)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : max(top, 2)]
        best = [[n for n in row.tolist() if scores[u, n] > 0] for u, row in enumerate(order)]
        texts = [[concepts.concepts[n].text for n in row] for row in best]
        values = [[float(scores[u, n]) for n in row] for u, row in enumerate(best)]
        columns: dict[str, Any] = dict(ranked(texts, values, top))
        first = [concepts.concepts[row[0]] if row else None for row in best]
        columns["category"] = [c.category if c else "" for c in first]
        columns["label"] = [c.label if c else "" for c in first]
        columns["score"] = [row[0] if row else 0.0 for row in values]
        table: pd.DataFrame = pd.DataFrame(columns | _by_category(scores, counts, concepts))
        return table


def _by_category(
    scores: Float[np.ndarray, "units concepts"], counts: OverlapCounts, concepts: ConceptMasks
) -> dict[str, Any]:
    """The published columns on each category's best concept; an empty label where its IoU is 0."""
    fired = active_by_concept(counts, concepts)
    units = np.arange(len(scores))
    columns: dict[str, Any] = {}
    for number, category in enumerate(concepts.categories):
        own = np.flatnonzero(concepts.category == number)
        best = own[scores[:, own].argmax(1)]
        value = scores[units, best]
        labels = [concepts.concepts[n].label for n in best]
        columns[f"{category}-label"] = np.where(value > 0, np.array(labels, dtype=object), "")
        columns[f"{category}-truth"] = concepts.pixels[best]
        columns[f"{category}-activation"] = fired[units, best]
        columns[f"{category}-intersect"] = counts.shared[units, best]
        columns[f"{category}-iou"] = value
    return columns
