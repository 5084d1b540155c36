"""Where units fire and where concepts are, as bits: what methods that compare masks work with."""

from __future__ import annotations

from clipdissect.masks.concepts import ConceptMasks, concept_masks
from clipdissect.masks.counts import OverlapCounts, tally
from clipdissect.masks.firing import Dense, dense
from clipdissect.masks.layout import Layout
from clipdissect.masks.levels import Levels
from clipdissect.masks.units import UnitMasks
from clipdissect.masks.view import whole_view

__all__ = [
    "ConceptMasks",
    "Dense",
    "Layout",
    "Levels",
    "OverlapCounts",
    "UnitMasks",
    "concept_masks",
    "dense",
    "tally",
    "whole_view",
]
