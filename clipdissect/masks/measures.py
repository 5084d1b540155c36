"""Measures of how well a formula explains a mask, besides their IoU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int, UInt64

from clipdissect.masks.concepts import ConceptMasks
from clipdissect.masks.counts import OverlapCounts
from clipdissect.masks.formulas import Formula
from clipdissect.masks.kernels.plain import join
from clipdissect.masks.layout import first_entries
from clipdissect.masks.search import ScoredFormula
from clipdissect.masks.units import UnitMasks


@dataclass(frozen=True)
class Measures:
    """Shares of a formula's and a mask's pixels, and of the formula's images."""

    detection_accuracy: float  # of the formula's pixels, those in the mask
    activation_coverage: float  # of the mask's pixels in annotated images, those of the formula
    samples_coverage: float  # of the images that show the formula, those where both overlap


@dataclass(frozen=True)
class FormulaMasks:
    """Masks of formulas in all images."""

    concepts: ConceptMasks

    def mask(self, formula: Formula) -> UInt64[np.ndarray, " words"]:
        """Return the bits of a formula in every word of the layout."""
        mask = self._concept(formula.operands[0])
        for operator, operand in zip(formula.operators[1:], formula.operands[1:], strict=True):
            mask = join(operator, mask, self._concept(operand))
        return mask

    def images(self, mask: UInt64[np.ndarray, " words"]) -> int:
        """Count the images in which a mask has a bit."""
        return int(np.count_nonzero(np.bitwise_or.reduceat(mask, self.concepts.layout.starts[:-1])))

    @cached_property
    def _by_concept(self) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " concepts_and_one"]]:
        """The entries sorted by concept, and where each concept's start."""
        concept = self.concepts.entries.concept
        starts = first_entries(concept, len(self.concepts.concepts))
        return np.argsort(concept, kind="stable"), starts

    @cached_property
    def _words(self) -> Int[np.ndarray, " entries"]:
        return np.repeat(np.arange(self.concepts.layout.words), np.diff(self.concepts.entries.rows))

    def _concept(self, number: int) -> UInt64[np.ndarray, " words"]:
        order, starts = self._by_concept
        entries = order[starts[number] : starts[number + 1]]
        mask = np.zeros(self.concepts.layout.words, dtype=np.uint64)
        mask[self._words[entries]] = self.concepts.entries.bits[entries]
        return mask


def measures(
    units: UnitMasks, counts: OverlapCounts, best: list[ScoredFormula | None], masks: FormulaMasks
) -> list[Measures | None]:
    """Return the measures of each unit's formula; None without a formula.

    Source: La Rosa et al., "Towards a fuller understanding of neurons with Clustered Compositional
    Explanations", NeurIPS 2023.
    """
    concepts = masks.concepts
    found: list[Measures | None] = []
    for unit, scored in enumerate(best):
        if scored is None:
            found.append(None)
            continue
        annotated = sum({1 << int(concepts.category[n]) for n in scored.formula.operands})
        active = counts.active[unit, (counts.patterns & annotated) != 0].sum()
        own = slice(units.starts[unit], units.starts[unit + 1])
        mask, both = masks.mask(scored.formula), np.zeros(concepts.layout.words, dtype=np.uint64)
        words = units.words[own]
        both[words] = mask[words] & units.bits[own]
        found.append(
            Measures(
                scored.shared / scored.size,
                float(scored.shared / active),
                masks.images(both) / masks.images(mask),
            )
        )
    return found
