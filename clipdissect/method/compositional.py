"""Compositional Explanations: formulas of concepts that match a unit's active positions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from clipdissect.errors import DissectError
from clipdissect.masks import ConceptMasks, OverlapCounts
from clipdissect.masks.search import FormulaCounts, search
from clipdissect.masks.units import UnitMasks
from clipdissect.method.activation_ranges import Search
from clipdissect.method.masked import MaskMatchingMethod
from clipdissect.results.describe import description_columns

LONGEST, WIDEST = 10, 100


@dataclass(frozen=True, kw_only=True)
class Compositional(MaskMatchingMethod):
    """The formula of concepts with the largest intersection over union, by beam search.

    Formulas are `((c1 op c2) op c3) ...`, with `op` AND, OR or AND NOT and distinct concepts.
    Thresholds, masks and IoU are Network Dissection's; with `length=1` the results are equal.
    Extra columns: `formula` (a JSON tree), `length`, `label_1` and `iou_1` of the best single
    concept, and the published `category, label, score`.

    Args:
        length: largest number of concepts in a formula.
        beam: beam width, in formulas.
        quantile, detector, least_images, categories, view, memory, ranges: see
            `MaskMatchingMethod`.

    Source: Mu & Andreas, NeurIPS 2020; length 3 and beam 5 are their code's settings.
    """

    length: int = 3
    beam: int = 5
    name: ClassVar[str] = "compositional"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, largest in (("length", LONGEST), ("beam", WIDEST)):
            value = getattr(self, name)
            if not 1 <= value <= largest:
                raise DissectError(f"method.{name} is {value}; it must be 1 to {largest}")

    @property
    def search(self) -> Search:
        return Search(self.length, self.beam)

    def table(
        self, units: UnitMasks, counts: OverlapCounts, concepts: ConceptMasks, top: int
    ) -> pd.DataFrame:
        named = concepts.concepts
        sizes = FormulaCounts(concepts)
        beams = search(units, counts, sizes, self.length, self.beam)
        singles = [beam[0] if beam else None for beam in search(units, counts, sizes, 1, 1)]
        texts = [[entry.formula.text(named) for entry in beam] for beam in beams]
        scores = [[entry.score for entry in beam] for beam in beams]
        columns: dict[str, Any] = description_columns(
            texts, scores, min(top, self.beam), missing_score=0.0
        )
        best = [beam[0] if beam else None for beam in beams]
        columns["formula"] = [
            json.dumps(b.formula.tree(named), ensure_ascii=False) if b else "" for b in best
        ]
        columns["length"] = [len(b.formula) if b else 0 for b in best]
        columns["label_1"] = [named[s.formula.operands[0]].label if s else "" for s in singles]
        columns["iou_1"] = [s.score if s else 0.0 for s in singles]
        used = [[named[n].category for n in b.formula.operands] if b else [] for b in best]
        columns["category"] = [";".join(dict.fromkeys(categories)) for categories in used]
        columns["label"] = [t[0] if t else "" for t in texts]
        columns["score"] = [b.score if b else 0.0 for b in best]
        table: pd.DataFrame = pd.DataFrame(columns)
        return table
