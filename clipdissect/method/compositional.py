"""Compositional Explanations: the formula of concepts whose pixels are those where a unit fires."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from clipdissect.errors import DissectError
from clipdissect.masks import ConceptMasks, OverlapCounts
from clipdissect.masks.search import FormulaCounts, search
from clipdissect.masks.units import UnitMasks
from clipdissect.method.masked import MaskMatchingMethod, ranked

LONGEST, WIDEST = 10, 100


@dataclass(frozen=True, kw_only=True)
class Compositional(MaskMatchingMethod):
    """The formula with the largest intersection over union, by beam search.

    Formulas are `((c1 op c2) op c3) ...` with `op` one of AND, OR, AND NOT and every concept at
    most once: see `masks.search`. Thresholds, masks and their comparison are Network Dissection's,
    and with `length=1` so are description and IoU.

    Beside our columns there are `formula` (a tree in JSON), `length`, and of the best single
    concept `label_1` and `iou_1`; then `category, label, score` as the published tables have them,
    of the formula.

    Args:
        length: most concepts in a formula.
        beam: formulas kept after each step.
        quantile, detector, least_images, categories, view, memory: see `MaskMatchingMethod`.

    Raises:
        DissectError: a value that isn't allowed.

    Source: Mu & Andreas, "Compositional Explanations of Neurons", NeurIPS 2020; length 3 and beam 5
    are their code's settings.
    """

    length: int = 3
    beam: int = 5
    name: ClassVar[str] = "compositional"

    def __post_init__(self) -> None:
        """Check what doesn't depend on the probe."""
        super().__post_init__()
        for name, most in (("length", LONGEST), ("beam", WIDEST)):
            if not 1 <= getattr(self, name) <= most:
                raise DissectError(
                    f"method.{name} is {getattr(self, name)}; it must be 1 to {most}"
                )

    def table(
        self, units: UnitMasks, counts: OverlapCounts, concepts: ConceptMasks, top: int
    ) -> pd.DataFrame:
        """The best formulas of each unit; as many as the beam holds."""
        named = concepts.concepts
        sizes = FormulaCounts(concepts)
        beams = search(units, counts, sizes, self.length, self.beam)
        singles = [own[0] if own else None for own in search(units, counts, sizes, 1, 1)]
        texts = [[found.formula.text(named) for found in own] for own in beams]
        scores = [[found.score for found in own] for own in beams]
        columns: dict[str, Any] = dict(ranked(texts, scores, min(top, self.beam)))
        best = [own[0] if own else None for own in beams]
        trees = [b.formula.tree(named) if b else None for b in best]
        columns["formula"] = [
            json.dumps(tree, ensure_ascii=False) if tree else "" for tree in trees
        ]
        columns["length"] = [len(b.formula) if b else 0 for b in best]
        columns["label_1"] = [named[s.formula.operands[0]].label if s else "" for s in singles]
        columns["iou_1"] = [s.score if s else 0.0 for s in singles]
        used = [[named[n] for n in b.formula.operands] if b else [] for b in best]
        columns["category"] = [";".join(dict.fromkeys(c.category for c in own)) for own in used]
        columns["label"] = [t[0] if t else "" for t in texts]
        columns["score"] = [b.score if b else 0.0 for b in best]
        table: pd.DataFrame = pd.DataFrame(columns)
        return table
