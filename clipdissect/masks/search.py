"""Beam search for the formula whose mask is most like a unit's, for all units of a layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from clipdissect.masks.concepts import ConceptMasks
from clipdissect.masks.counts import OverlapCounts, concept_iou, iou
from clipdissect.masks.formulas import Formula
from clipdissect.masks.kernels import count_formulas, extend_masks, intersections
from clipdissect.masks.kernels.plain import AND, AND_NOT, OR
from clipdissect.masks.units import UnitMasks

UNITS_AT_ONCE = 64  # units whose candidates are in memory together


@dataclass(frozen=True)
class ScoredFormula:
    """A formula of a unit, with pixel counts."""

    formula: Formula
    score: float  # its IoU with the unit
    shared: int  # pixels that show it while the unit is active
    size: int  # pixels that show it


Beams = list[list[ScoredFormula]]
# A new formula's parent (its place in the beam), operator and concept.
Move = tuple[int, int, int]
NO_MOVE: Move = (-1, -1, -1)


@dataclass
class FormulaCounts:
    """Sizes of formulas and their overlaps with every concept, each counted once."""

    concepts: ConceptMasks
    known: dict[Any, tuple[Int[np.ndarray, " concepts"], int]] = field(default_factory=dict)

    def add(self, formulas: list[Formula]) -> None:
        """Count the formulas that aren't known yet; all have the same length."""
        new = {f.key(): f for f in formulas if f.key() not in self.known}
        if not new:
            return
        operands = np.array([f.operands for f in new.values()], dtype=np.int64)
        operators = np.array([f.operators for f in new.values()], dtype=np.int64)
        count = len(self.concepts.concepts)
        shared, sizes = count_formulas(*self.concepts.entries, count, operands, operators)
        for key, row, size in zip(new, shared, sizes.tolist(), strict=True):
            self.known[key] = (row, size)


def search(
    units: UnitMasks, counts: OverlapCounts, formulas: FormulaCounts, length: int, width: int
) -> Beams:
    """Return each unit's best formulas, best first (Mu & Andreas, NeurIPS 2020, Sec. 2).

    The beam starts with the `width` concepts of largest IoU. In each step, up to `length`
    concepts, every formula of the last step is joined with every other concept by AND, OR and
    AND NOT, and the best `width` of these and of the beam remain; ties: the shorter, then the
    earlier. IoU is over the images annotated in any category of the formula's concepts, where
    unannotated pixels count as not shown; for one concept it is Network Dissection's.
    """
    concepts = formulas.concepts
    beams = _single_concepts(counts, concepts, width)
    masks = units.bits[None]
    moves = [[(0, AND, best.formula.operands[0]) for best in beam] for beam in beams]
    for step in range(2, length + 1):
        masks = _extended_masks(units, masks, moves, concepts, width)
        formulas.add([f.formula for beam in beams for f in beam if len(f.formula) == step - 1])
        count = len(concepts.concepts)
        shared = intersections(units.starts, units.words, masks, *concepts.entries, count)
        moves = []
        for start in range(0, len(beams), UNITS_AT_ONCE):
            group = range(start, min(start + UNITS_AT_ONCE, len(beams)))
            candidates = _candidates(beams, shared, counts, group, formulas, step, width)
            for unit in group:
                beams[unit], unit_moves = candidates.merge(unit - start, beams[unit], width, step)
                moves.append(unit_moves)
    return beams


def _single_concepts(counts: OverlapCounts, concepts: ConceptMasks, width: int) -> Beams:
    scores = concept_iou(counts, concepts)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :width]

    def scored(unit: int, n: int) -> ScoredFormula:
        formula, shared = Formula((n,), (AND,)), int(counts.shared[unit, n])
        return ScoredFormula(formula, float(scores[unit, n]), shared, int(concepts.pixels[n]))

    return [
        [scored(unit, n) for n in row if scores[unit, n] > 0]
        for unit, row in enumerate(order.tolist())
    ]


def _extended_masks(
    units: UnitMasks,
    masks: UInt64[np.ndarray, "parents n"],
    moves: list[list[Move]],
    concepts: ConceptMasks,
    width: int,
) -> UInt64[np.ndarray, "beams n"]:
    """Return masks of the beam's new formulas where the unit is active; empty for the others."""
    table = np.full((3, len(moves), width), -1, dtype=np.int64)
    for unit, unit_moves in enumerate(moves):
        for place, move in enumerate(unit_moves):
            table[:, unit, place] = move
    return extend_masks(units.starts, units.words, masks, units.bits, *table, *concepts.entries)


@dataclass(frozen=True)
class _Candidates:
    """Formulas with one more concept, by unit, place in the beam, operator and concept."""

    scores: Float[np.ndarray, "units beams operators concepts"]
    shared: Int[np.ndarray, "units beams operators concepts"]
    sizes: Int[np.ndarray, "units beams operators concepts"]

    def merge(
        self, unit: int, beam: list[ScoredFormula], width: int, step: int
    ) -> tuple[list[ScoredFormula], list[Move]]:
        """Return the best of a unit's beam and candidates, and the moves of the new formulas."""
        scores = self.scores[unit].reshape(-1)
        worst = beam[-1].score if len(beam) == width else 0.0
        better = np.flatnonzero(scores > worst)
        # A formula arises in up to `step` ways, one per operand joined last.
        better = better[np.argsort(-scores[better], kind="stable")][: width * step]
        merged: list[tuple[ScoredFormula, Move]] = [(old, NO_MOVE) for old in beam]
        keys = set()
        for number in better.tolist():
            place, operator, operand = np.unravel_index(number, self.scores.shape[1:])
            move = (int(place), int(operator), int(operand))
            formula = beam[move[0]].formula.joined((AND, OR, AND_NOT)[move[1]], move[2])
            if formula.key() in keys:
                continue
            keys.add(formula.key())
            shared, size = int(self.shared[unit][move]), int(self.sizes[unit][move])
            merged.append((ScoredFormula(formula, float(scores[number]), shared, size), move))
        merged = sorted(merged, key=lambda pair: -pair[0].score)[:width]  # stable for ties
        return [scored for scored, _ in merged], [move for _, move in merged]


def _candidates(
    beams: Beams,
    shared: Int[np.ndarray, "all_units beams concepts"],
    counts: OverlapCounts,
    group: range,
    formulas: FormulaCounts,
    step: int,
    width: int,
) -> _Candidates:
    """Score all candidates of a group of units; excluded ones have score 0."""
    concepts = formulas.concepts
    pixels = concepts.pixels
    both = np.zeros((len(group), width, len(pixels)), dtype=np.int64)  # |F C|
    size, unit_shared = np.zeros((2, len(group), width, 1), dtype=np.int64)  # |F|, |F U|
    categories = np.zeros((len(group), width), dtype=np.int64)  # as bits
    allowed = np.zeros(both.shape, dtype=bool)
    for row, unit in enumerate(group):
        for place, scored in enumerate(beams[unit]):
            operands = scored.formula.operands
            if len(operands) < step - 1:
                continue
            both[row, place], size[row, place] = formulas.known[scored.formula.key()]
            unit_shared[row, place] = scored.shared
            allowed[row, place] = True
            allowed[row, place, list(operands)] = False
            for number in operands:
                categories[row, place] |= 1 << int(concepts.category[number])
    units = slice(group.start, group.stop)
    alone, common = counts.shared[units, None], shared[units]  # |C U|, |F C U|
    # AND, OR, AND NOT of formula F and concept C: |F C| and, with unit U, |F C U| give their sizes
    # and overlaps by adding and subtracting, without the masks.
    overlaps = np.stack([common, unit_shared + alone - common, unit_shared - common], axis=2)
    sizes = np.stack([both, size + pixels - both, size - both], axis=2)
    active = _active(counts, units, categories, concepts)[:, :, None]
    new = _is_new(both, size, pixels) & allowed[:, :, None]
    return _Candidates(np.where(new, iou(overlaps, active, sizes), 0.0), overlaps, sizes)


def _active(
    counts: OverlapCounts,
    units: slice,
    categories: Int[np.ndarray, "units beams"],
    concepts: ConceptMasks,
) -> Int[np.ndarray, "units beams concepts"]:
    """Count active pixels in images annotated for a formula or the concept joined to it."""
    joined = categories[..., None] | (1 << np.arange(len(concepts.categories)))
    counted = (counts.patterns & joined[..., None]) != 0
    by_category: Int[np.ndarray, "units beams categories"] = (
        counts.active[units, None, None] * counted
    ).sum(-1)
    return by_category[:, :, concepts.category]


def _is_new(
    both: Int[np.ndarray, "units beams concepts"],
    size: Int[np.ndarray, "units beams one"],
    pixels: Int[np.ndarray, " concepts"],
) -> Bool[np.ndarray, "units beams operators concepts"]:
    """Return which masks are neither empty nor equal to the formula's or the concept's."""
    # Candidates with the mask of the shorter formula would fill the beam with copies of it.
    overlap, extends = both > 0, both < size
    crossing = extends & (both < pixels)
    return np.stack([overlap & crossing, crossing, overlap & extends], axis=2)
