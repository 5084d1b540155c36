"""Descriptions of ranges of a unit's activations, as the unit's meanings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from clipdissect.masks import ConceptMasks, OverlapCounts, count_overlaps
from clipdissect.masks.layout import Layout
from clipdissect.masks.measures import FormulaMasks, Measures, measures
from clipdissect.masks.ranges import RangeMasks
from clipdissect.masks.search import FormulaCounts, ScoredFormula, search
from clipdissect.masks.units import UnitMasks
from clipdissect.results.describe import NULL
from clipdissect.results.formulas import COLUMN

NO_MEASURES = Measures(np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class Search:
    """The search for formulas: of up to `length` concepts, with a beam of `width` formulas."""

    length: int
    width: int

    @property
    def bytes_per_word(self) -> int:
        """Memory for a word of a unit's mask: its number, bits and copies, and two per formula."""
        return 80 + 16 * self.width

    def best(
        self, units: UnitMasks, counts: OverlapCounts, sizes: FormulaCounts
    ) -> list[ScoredFormula | None]:
        """Return the best formula per mask; None if no concept overlaps with it."""
        beams = search(units, counts, sizes, self.length, self.width)
        return [beam[0] if beam else None for beam in beams]


class RangeDescriber:
    """Describes ranges; counts each formula's pixels once.

    Args:
        finder: the search for a range's description.
        concepts: the candidates.
        null: the candidates' masks with the images shuffled; None for no null.
    """

    def __init__(self, finder: Search, concepts: ConceptMasks, null: ConceptMasks | None) -> None:
        self.finder, self.masks = finder, FormulaMasks(concepts)
        self.sizes = FormulaCounts(concepts)
        self.null_sizes = None if null is None else FormulaCounts(null)

    def table(self, rows: RangeMasks) -> pd.DataFrame:
        """Return a row per range: `unit, meaning, share, images, description, similarity, ...`.

        `meaning` counts from 1, the highest range; `share` is of the unit's active positions,
        `images` counts those in which the range is active.
        """
        concepts = self.sizes.concepts
        counts = count_overlaps(rows.masks, concepts)
        best = self.finder.best(rows.masks, counts, self.sizes)
        singles = Search(1, 1).best(rows.masks, counts, self.sizes)
        columns = _range_columns(rows, concepts.layout)
        columns |= _formula_columns(best, singles, concepts)
        found = measures(rows.masks, counts, best, self.masks)
        columns |= dict(pd.DataFrame([asdict(own or NO_MEASURES) for own in found]))
        if self.null_sizes is not None:
            counts = count_overlaps(rows.masks, self.null_sizes.concepts)
            by_chance = self.finder.best(rows.masks, counts, self.null_sizes)
            # A range that shares no pixel with any concept scores 0.
            columns[NULL] = [b.score if b else 0.0 for b in by_chance]
        table: pd.DataFrame = pd.DataFrame(columns)
        return table


def _range_columns(rows: RangeMasks, layout: Layout) -> dict[str, Any]:
    return {
        "unit": [r.unit for r in rows.ranges],
        "meaning": [r.number for r in rows.ranges],
        "share": [r.share for r in rows.ranges],
        "images": rows.masks.images(layout),
        "lower": [r.lower for r in rows.ranges],
        "upper": [r.upper for r in rows.ranges],
    }


def _formula_columns(
    best: list[ScoredFormula | None], singles: list[ScoredFormula | None], concepts: ConceptMasks
) -> dict[str, Any]:
    named = concepts.concepts
    return {
        "description": [b.formula.text(named) if b else "" for b in best],
        "similarity": [b.score if b else np.nan for b in best],
        COLUMN: [json.dumps(b.formula.tree(named), ensure_ascii=False) if b else "" for b in best],
        "label_1": [named[s.formula.operands[0]].label if s else "" for s in singles],
    }
