"""Bit masks of units and of concepts, for the methods that compare them."""

from __future__ import annotations

from clipdissect.masks.concepts import ConceptMasks, concept_masks
from clipdissect.masks.counts import OverlapCounts, count_overlaps
from clipdissect.masks.crop import without_crop
from clipdissect.masks.layers import LayerMasks, LayerThresholds, layer_masks, layer_thresholds
from clipdissect.masks.layout import Layout
from clipdissect.masks.thresholds import Thresholds
from clipdissect.masks.units import UnitMasks

__all__ = [
    "ConceptMasks",
    "LayerMasks",
    "LayerThresholds",
    "Layout",
    "OverlapCounts",
    "Thresholds",
    "UnitMasks",
    "concept_masks",
    "count_overlaps",
    "layer_masks",
    "layer_thresholds",
    "without_crop",
]
