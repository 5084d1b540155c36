"""Beam search for the formula whose pixels a unit fires at: all units of a layer at once.

Nothing but counts is needed of a candidate. With F the pixels of a formula, C those of a concept
and U those of a unit, |F C| and |F C U| give the sizes and the overlaps with U of `F AND C`,
`F OR C` and `F AND NOT C` by adding and subtracting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from clipdissect.masks.concepts import ConceptMasks
from clipdissect.masks.counts import OverlapCounts, concept_iou, iou
from clipdissect.masks.formulas import Formula
from clipdissect.masks.kernels import count_formulas, count_together, restrict
from clipdissect.masks.kernels.plain import AND, AND_NOT, OR
from clipdissect.masks.units import UnitMasks

CHUNK = 64  # units whose candidates are looked through together


@dataclass(frozen=True)
class Found:
    """A formula of a unit.

    Args:
        formula: the formula.
        score: its IoU with the unit.
        shared: pixels that show it while the unit fires.
        size: pixels that show it.
    """

    formula: Formula
    score: float
    shared: int
    size: int


Beams = list[list[Found]]


@dataclass
class Sizes:
    """Sizes of formulas and their overlaps with every concept, each counted once.

    Args:
        concepts: of all images.
    """

    concepts: ConceptMasks
    known: dict[Any, tuple[Int[np.ndarray, " concepts"], int]] = field(default_factory=dict)

    def learn(self, formulas: list[Formula]) -> None:
        """Count those that aren't known; all of one length."""
        new = {f.key(): f for f in formulas if f.key() not in self.known}
        if not new:
            return
        operands = np.array([f.operands for f in new.values()], dtype=np.int64)
        operators = np.array([f.operators for f in new.values()], dtype=np.int64)
        shared, sizes = count_formulas(
            self.concepts.rows, self.concepts.concept, self.concepts.bits,
            len(self.concepts.concepts), operands, operators,
        )  # fmt: skip
        for key, row, size in zip(new, shared, sizes.tolist(), strict=True):
            self.known[key] = (row, size)


def search(units: UnitMasks, counts: OverlapCounts, sizes: Sizes, length: int, width: int) -> Beams:
    """Each unit's best formulas, best first.

    The beam starts with the `width` concepts of the largest IoU. In each step every formula of the
    last step is joined with every other concept by AND, OR and AND NOT, and the best `width` of
    these and of the beam stay. Of equal scores the shorter formula, then the one found first,
    stands first. Candidates whose pixels are those of the shorter formula or of the concept alone
    are left out: they would fill the beam with copies of it.

    A formula's IoU is over the images that are annotated in any category of its concepts; what
    isn't annotated is taken as not shown. Of one concept it is Network Dissection's.

    Args:
        units: where they fire.
        counts: what they share with each concept.
        sizes: of formulas of the concepts.
        length: most concepts in a formula.
        width: formulas that are kept.

    Source: Mu & Andreas, "Compositional Explanations of Neurons", NeurIPS 2020, Sec. 2.
    """
    beams = _first(counts, sizes.concepts, width)
    masks = units.bits[None]
    steps = [[(0, AND, found.formula.operands[0]) for found in beam] for beam in beams]
    for step in range(2, length + 1):
        masks = _masks(units, masks, steps, sizes.concepts, width)
        sizes.learn([f.formula for beam in beams for f in beam if len(f.formula) == step - 1])
        shared = count_together(
            units.starts, units.words, masks, sizes.concepts.rows, sizes.concepts.concept,
            sizes.concepts.bits, len(sizes.concepts.concepts),
        )  # fmt: skip
        steps = []
        for start in range(0, len(beams), CHUNK):
            chosen = slice(start, start + CHUNK)
            candidates = _candidates(
                beams[chosen], shared[chosen], counts, range(*chosen.indices(len(beams))), sizes,
                step, width,
            )  # fmt: skip
            for unit, beam in enumerate(beams[chosen]):
                beams[start + unit], made = _merged(beam, candidates.of(unit), width, step)
                steps.append(made)
    return beams


def _first(counts: OverlapCounts, concepts: ConceptMasks, width: int) -> Beams:
    scores = concept_iou(counts, concepts)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :width]
    return [
        [
            Found(Formula((n,), (AND,)), float(scores[unit, n]), int(counts.shared[unit, n]),
                  int(concepts.pixels[n]))
            for n in row.tolist() if scores[unit, n] > 0
        ]
        for unit, row in enumerate(order)
    ]  # fmt: skip


def _masks(
    units: UnitMasks, masks: UInt64[np.ndarray, "parents n"],
    steps: list[list[tuple[int, int, int]]], concepts: ConceptMasks, width: int,
) -> UInt64[np.ndarray, "beams n"]:  # fmt: skip
    """Where the beam's new formulas are shown while the unit fires; nothing for the others."""
    moves = np.full((3, len(steps), width), -1, dtype=np.int64)
    for unit, own in enumerate(steps):
        for beam, move in enumerate(own):
            moves[:, unit, beam] = move
    return restrict(
        units.starts, units.words, masks, units.bits, *moves, concepts.rows, concepts.concept,
        concepts.bits,
    )  # fmt: skip


@dataclass(frozen=True)
class _Candidates:
    """Formulas one concept longer, by unit, place in the beam, operator and concept."""

    scores: Float[np.ndarray, "units beams operators concepts"]
    shared: Int[np.ndarray, "units beams operators concepts"]
    sizes: Int[np.ndarray, "units beams operators concepts"]

    def of(self, unit: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One unit's."""
        return self.scores[unit], self.shared[unit], self.sizes[unit]


def _candidates(
    beams: Beams, common: Int[np.ndarray, "units beams concepts"], counts: OverlapCounts,
    units: range, sizes: Sizes, step: int, width: int,
) -> _Candidates:  # fmt: skip
    """Scores of all candidates; 0 of those that are left out."""
    concepts = sizes.concepts
    pixels = concepts.pixels
    live = np.zeros((len(beams), width), dtype=bool)
    both = np.zeros((len(beams), width, len(pixels)), dtype=np.int64)
    size, own = np.zeros((2, len(beams), width, 1), dtype=np.int64)
    sets = np.zeros((len(beams), width), dtype=np.int64)
    used = np.zeros(both.shape, dtype=bool)
    for unit, beam in enumerate(beams):
        for place, found in enumerate(beam):
            if len(found.formula) < step - 1:
                continue
            live[unit, place] = True
            both[unit, place], size[unit, place] = sizes.known[found.formula.key()]
            own[unit, place] = found.shared
            used[unit, place, list(found.formula.operands)] = True
            for number in found.formula.operands:
                sets[unit, place] |= 1 << int(concepts.category[number])
    alone = counts.shared[units.start : units.stop, None]
    shared = np.stack([common, own + alone - common, own - common], axis=2)
    shown = np.stack([both, size + pixels - both, size - both], axis=2)
    fired = _fired(counts, units, sets, concepts)[:, :, None]
    scores = np.where(_new(both, size, pixels, live[..., None] & ~used), iou(shared, fired, shown),
                      0.0)  # fmt: skip
    return _Candidates(scores, shared, shown)


def _fired(
    counts: OverlapCounts,
    units: range,
    sets: Int[np.ndarray, "units beams"],
    concepts: ConceptMasks,
) -> Int[np.ndarray, "units beams concepts"]:
    """Pixels at which units fire in images annotated for a formula or the concept joined to it."""
    joined = sets[..., None] | (1 << np.arange(len(concepts.categories)))
    counted = (counts.patterns & joined[..., None]) != 0
    fired = counts.fired[units.start : units.stop, None, None]
    by_category: Int[np.ndarray, "units beams categories"] = (fired * counted).sum(-1)
    return by_category[:, :, concepts.category]


def _new(
    both: Int[np.ndarray, "units beams concepts"], size: Int[np.ndarray, "units beams one"],
    pixels: Int[np.ndarray, " concepts"], allowed: Bool[np.ndarray, "units beams concepts"],
) -> Bool[np.ndarray, "units beams operators concepts"]:  # fmt: skip
    """Which candidates show other pixels than the formula or the concept alone, and some."""
    some, less = both > 0, both < size
    crossing = less & (both < pixels)
    new = np.stack([some & crossing, crossing, some & less], axis=2)
    found: Bool[np.ndarray, "units beams operators concepts"] = new & allowed[:, :, None]
    return found


def _merged(
    beam: list[Found], candidates: tuple[np.ndarray, np.ndarray, np.ndarray], width: int, step: int
) -> tuple[list[Found], list[tuple[int, int, int]]]:
    """The best of a beam and its candidates, and how each new one was made (-1: not a new one)."""
    scores, shared, sizes = candidates
    flat = scores.reshape(-1)
    worst = beam[-1].score if len(beam) == width else 0.0
    better = np.flatnonzero(flat > worst)
    # A formula can be made in as many ways as it has operands.
    better = better[np.argsort(-flat[better], kind="stable")][: width * step]
    both: list[tuple[Found, tuple[int, int, int]]] = [(found, (-1, -1, -1)) for found in beam]
    keys = set()
    for number in better.tolist():
        place, operator, operand = (int(n) for n in np.unravel_index(number, scores.shape))
        formula = beam[place].formula.joined((AND, OR, AND_NOT)[operator], operand)
        if formula.key() in keys:
            continue
        keys.add(formula.key())
        at = (place, operator, operand)
        made = Found(formula, float(flat[number]), int(shared[at]), int(sizes[at]))
        both.append((made, at))
    both = sorted(both, key=lambda pair: -pair[0].score)[:width]  # stable: ties stay in order
    return [found for found, _ in both], [move for _, move in both]
