"""Pixels that units share with concepts, and their intersection over union."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from clipdissect.masks.concepts import ConceptMasks
from clipdissect.masks.kernels import count_together, popcount
from clipdissect.masks.units import UnitMasks


@dataclass(frozen=True)
class OverlapCounts:
    """Counts of pixels of some units.

    Args:
        shared: pixels that show a concept while the unit fires.
        patterns: the ways in which images are annotated, bit c of each: in category c.
        fired: pixels at which each unit fires, by the image's pattern.
    """

    shared: Int[np.ndarray, "units concepts"]
    patterns: Int[np.ndarray, " patterns"]
    fired: Int[np.ndarray, "units patterns"]

    def fired_in(self, categories: Int[np.ndarray, "..."]) -> Int[np.ndarray, "units ..."]:
        """Pixels at which each unit fires in images annotated in any of some categories.

        Args:
            categories: sets of categories, bit c: category c is in it.
        """
        sets = np.asarray(categories)
        counted = (self.patterns.reshape(-1, *[1] * sets.ndim) & sets) != 0
        found: Int[np.ndarray, "units ..."] = np.tensordot(
            self.fired, counted.astype(np.int64), axes=(1, 0)
        )
        return found


def tally(units: UnitMasks, concepts: ConceptMasks) -> OverlapCounts:
    """What units share with every concept, in whole numbers.

    Args:
        units: where they fire.
        concepts: of the same layout.
    """
    shared = count_together(
        units.starts, units.words, units.bits[None], concepts.rows, concepts.concept,
        concepts.bits, len(concepts.concepts),
    )[:, 0]  # fmt: skip
    patterns, pattern = np.unique(concepts.annotated, return_inverse=True)
    unit = np.repeat(np.arange(len(units)), np.diff(units.starts))
    image = concepts.layout.images_of(units.words)
    place = unit * len(patterns) + pattern[image]
    # Sums of whole numbers in float64 are exact below 2^53.
    fired = np.bincount(place, popcount(units.bits), minlength=len(units) * len(patterns))
    return OverlapCounts(
        shared, patterns, fired.astype(np.int64).reshape(len(units), len(patterns))
    )


def iou(
    shared: Int[np.ndarray, "..."], fired: Int[np.ndarray, "..."], shown: Int[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Intersection over union; 0 where both are empty.

    Args:
        shared: pixels in both.
        fired, shown: pixels in the one and in the other.
    """
    union = fired + shown - shared
    found: Float[np.ndarray, "..."] = np.divide(
        shared, union, out=np.zeros(np.shape(union)), where=union > 0
    )
    return found


def concept_iou(
    counts: OverlapCounts, concepts: ConceptMasks
) -> Float[np.ndarray, "units concepts"]:
    """The IoU of every unit with every concept, over the images annotated in its category.

    Source: Bau et al., "Network Dissection", CVPR 2017, Eq. (1).
    """
    return iou(counts.shared, fired_by_concept(counts, concepts), concepts.pixels)


def fired_by_concept(
    counts: OverlapCounts, concepts: ConceptMasks
) -> Int[np.ndarray, "units concepts"]:
    """Pixels at which units fire in the images annotated in each concept's category."""
    return counts.fired_in(1 << np.arange(len(concepts.categories)))[:, concepts.category]
