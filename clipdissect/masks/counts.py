"""Pixels that units share with concepts, and their intersection over union."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from clipdissect.masks.concepts import ConceptMasks
from clipdissect.masks.kernels import intersections, popcount
from clipdissect.masks.units import UnitMasks


@dataclass(frozen=True)
class OverlapCounts:
    """Pixel counts of some units: shared with each concept, and active in total."""

    shared: Int[np.ndarray, "units concepts"]
    patterns: Int[np.ndarray, " patterns"]  # distinct sets of annotated categories, as bits
    active: Int[np.ndarray, "units patterns"]  # by the image's pattern


def count_overlaps(units: UnitMasks, concepts: ConceptMasks) -> OverlapCounts:
    """Count the pixels that units share with each concept, both in the same layout."""
    masks, count = units.bits[None], len(concepts.concepts)
    shared = intersections(units.starts, units.words, masks, *concepts.entries, count)[:, 0]
    patterns, pattern = np.unique(concepts.annotated, return_inverse=True)
    unit = np.repeat(np.arange(len(units)), np.diff(units.starts))
    image = concepts.layout.images_of(units.words)
    cell = unit * len(patterns) + pattern[image]
    # Sums of whole numbers in float64 are exact below 2^53.
    active = np.bincount(cell, popcount(units.bits), minlength=len(units) * len(patterns))
    return OverlapCounts(
        shared, patterns, active.astype(np.int64).reshape(len(units), len(patterns))
    )


def iou(
    shared: Int[np.ndarray, "..."], active: Int[np.ndarray, "..."], shown: Int[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Compute intersection over union from the sizes; 0 where both masks are empty."""
    union = active + shown - shared
    ratio: Float[np.ndarray, "..."] = np.divide(
        shared, union, out=np.zeros(np.shape(union)), where=union > 0
    )
    return ratio


def concept_iou(
    counts: OverlapCounts, concepts: ConceptMasks
) -> Float[np.ndarray, "units concepts"]:
    """Compute the IoU per unit and concept, over the images annotated in its category.

    Source: Bau et al., "Network Dissection", CVPR 2017, Eq. (1).
    """
    return iou(counts.shared, active_by_concept(counts, concepts), concepts.pixels)


def active_by_concept(
    counts: OverlapCounts, concepts: ConceptMasks
) -> Int[np.ndarray, "units concepts"]:
    """Count units' active pixels in the images annotated in each concept's category."""
    annotated = (counts.patterns[:, None] & (1 << np.arange(len(concepts.categories)))) != 0
    by_category: Int[np.ndarray, "units categories"] = counts.active @ annotated.astype(np.int64)
    return by_category[:, concepts.category]
