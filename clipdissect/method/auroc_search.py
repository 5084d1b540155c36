"""Beam search for the formulas of image labels that rank units' images best.

Ranks of activations are kept as (images below) - (images above): twice the average rank less its
mean. With s their sum over the n of N images that show a formula, the area under the ROC curve is
`1/2 + s / (2 n (N - n))`, where ties count half. All ranks add up to 0, so the sums and sizes of
`F AND NOT c`, `F OR c` and `F OR NOT c` follow from those of F, c and `F AND c`: one matrix product
per step scores every way of joining a concept to every formula of the beam.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from clipdissect.results.formulas import AND, NOT, OR, leaf, node

Join = tuple[str, bool]  # an operator, and whether the concept is negated
JOINS: tuple[Join, ...] = ((AND, False), (AND, True), (OR, False), (OR, True))  # ties: this order
IMAGES_AT_ONCE = 4096  # of a matrix product
BYTES = 32_000_000  # of the candidates, or masks, of the units that are searched together
ANY = "..."
T = TypeVar("T", Tensor, np.ndarray)


@dataclass(frozen=True)
class LabelFormula:
    """The formula `((c1 op2 c2) op3 c3) ...` of concepts by number, some of them negated."""

    concepts: tuple[int, ...] = ()
    joins: tuple[Join, ...] = ()  # of each concept; the first operator is AND

    def __len__(self) -> int:
        return len(self.concepts)

    def joined(self, join: Join, concept: int) -> LabelFormula:
        """Return the formula with one more concept."""
        return LabelFormula((*self.concepts, concept), (*self.joins, join))

    def tree(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the tree of `results.formulas`; a run of one operator is one node."""
        tree: dict[str, Any] = {}
        for concept, (operator, negated) in zip(self.concepts, self.joins, strict=True):
            literal = node(NOT, leaf(names[concept])) if negated else leaf(names[concept])
            before = tree["of"] if tree.get("op") == operator else [tree]
            tree = node(operator, *before, literal) if tree else literal
        return tree

    def images(self, shown: T, everything: T) -> T:
        """Return which images show the formula, from `shown[concept]`, as masks or their bits."""
        result = everything
        for concept, (operator, negated) in zip(self.concepts, self.joins, strict=True):
            literal = shown[concept] ^ everything if negated else shown[concept]
            result = result & literal if operator == AND else result | literal
        return result


@dataclass(frozen=True)
class ScoredFormula:
    """A formula and its score for a unit."""

    formula: LabelFormula
    auroc: float
    size: int  # images that show it
    rank_sum: int  # of their centred ranks


Beam = list[ScoredFormula]
Rows = list[tuple[float, int, int, int]]  # -area, number, size and sum of candidates


def centred_ranks(activations: Float[Tensor, "images units"]) -> Int[Tensor, "units images"]:
    """Return the number of images below each image, less the number of those above it."""
    ordered, order = activations.T.contiguous().sort(1)
    images = ordered.shape[1]
    places = torch.arange(images, dtype=torch.int32, device=ordered.device).expand(ordered.shape)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = places.where(is_first, 0).cummax(1).values  # place of the first equal activation
    is_last = is_first.roll(-1, 1)
    last = places.where(is_last, images - 1).flip(1).cummin(1).values.flip(1)
    return torch.empty_like(first).scatter_(1, order, first + last + (1 - images))


def above_half(
    rank_sums: Float[Tensor, ANY], sizes: Float[Tensor, ANY], images: int
) -> Float[Tensor, ANY]:
    """Return the areas under the ROC curve, less 1/2; NaN where no or every image is shown."""
    # Whole numbers up to the division, so that equal areas are equal floats.
    return rank_sums / (2 * sizes * (images - sizes))


def sums_over(
    masks: Bool[Tensor, "units n images"],
    shown: Bool[Tensor, "concepts images"],
    ranks: Int[Tensor, "units images"] | None = None,
) -> Float[Tensor, "units n concepts"]:
    """Return the sums of ranks, or numbers, of the images that show both a mask and a concept.

    They are exact. Sums of ranks reach images^2 / 2, too large for float32 from 5794 images on.
    """
    dtype = torch.float32 if ranks is None else torch.float64
    total = torch.zeros(*masks.shape[:2], len(shown), dtype=torch.float64, device=shown.device)
    for start in range(0, masks.shape[2], IMAGES_AT_ONCE):
        part = slice(start, start + IMAGES_AT_ONCE)
        values = masks[..., part].to(dtype)
        if ranks is not None:
            values = values * ranks[:, None, part]
        total += values @ shown[:, part].T.to(dtype)
    return total


@dataclass(frozen=True)
class AurocSearch:
    """Search of formulas over the images that show each concept.

    Args:
        shown: which images show a concept.
        length: largest number of concepts in a formula.
        width: formulas in the beam.
        smallest, largest: number of images that may show a formula.
        least: number of images that show a concept in a formula, and of those that don't.
        limit: join only the concepts whose area is farthest from 1/2; None for all.
    """

    shown: Bool[Tensor, "concepts images"]
    length: int = 3
    width: int = 5
    smallest: int = 1
    largest: int | None = None
    least: int = 1
    limit: int | None = None

    def search(self, ranks: Int[Tensor, "units images"]) -> list[Beam]:
        """Return each unit's best formulas, best first, from its centred ranks.

        The beam starts with the `width` best concepts and negated concepts. In each step, up to
        `length` concepts, every formula of the last step is joined with every other concept by
        the `JOINS`, and the best `width` of these and of the beam remain; ties: the shorter, then
        the earlier. A formula that the same images show as an earlier one is left out.
        """
        beams: list[Beam] = []
        for part in torch.split(ranks, self._units_at_once) if len(ranks) else ():
            beams += _Units(self, part).search()
        return beams

    def areas(self, ranks: Int[Tensor, "units images"]) -> Float[Tensor, "units concepts"]:
        """Return the area of every concept; NaN where no image or every image shows it."""
        parts = torch.split(ranks, self._units_at_once)
        return torch.cat([0.5 + _Units(self, part).gains[:, 0] for part in parts])

    def in_range(self, sizes: Float[Tensor, ANY]) -> Bool[Tensor, ANY]:
        images = self.shown.shape[1]
        low, high = max(1, self.smallest), min(images - 1, self.largest or images)
        return (low <= sizes) & (sizes <= high)

    @property
    def can_start(self) -> bool:
        """Whether a concept or a negated concept has a size in range."""
        either = self.in_range(self.sizes) | self.in_range(self.shown.shape[1] - self.sizes)
        return bool((either & self.used).any())

    @property
    def _units_at_once(self) -> int:
        concepts, images = self.shown.shape
        a_unit = self.width * max(8 * len(JOINS) * concepts, images)
        return max(1, BYTES // a_unit)

    @cached_property
    def sizes(self) -> Float[Tensor, " concepts"]:
        return self.shown.sum(1).double()

    @cached_property
    def used(self) -> Bool[Tensor, " concepts"]:
        """Which concepts enough images show and don't, and not the same as an earlier concept."""
        first: dict[bytes, int] = {}
        is_first = [first.setdefault(row.tobytes(), n) == n for n, row in enumerate(self.bits)]
        rarer = torch.minimum(self.sizes, self.shown.shape[1] - self.sizes)
        return torch.tensor(is_first, device=self.shown.device) & (rarer >= self.least)

    @cached_property
    def bits(self) -> UInt8[np.ndarray, "concepts bytes"]:
        return np.packbits(self.shown.cpu().numpy(), axis=1)

    @cached_property
    def everything(self) -> UInt8[np.ndarray, " bytes"]:
        """The bits of all images."""
        return np.packbits(np.ones(self.shown.shape[1], dtype=bool))

    def images_of(self, formula: LabelFormula) -> bytes:
        """Return the bits of the images that show a formula."""
        return formula.images(self.bits, self.everything).tobytes()


@dataclass(frozen=True)
class _Candidates:
    """Formulas of some units, by the place of the formula that they lengthen, join and concept."""

    sums: Float[Tensor, "units places joins concepts"]
    sizes: Float[Tensor, "units places joins concepts"]
    areas: Float[Tensor, "units places joins concepts"]  # -inf: excluded

    def best(self, above: Float[Tensor, " units"], count: int) -> tuple[list[Rows], bool]:
        """Return each unit's best candidates, best first, and whether these are all.

        Those with a larger area than `above`: the best `count`, and all ties of the last.
        """
        areas = self.areas.flatten(1)
        better = areas > above[:, None]
        least = areas.topk(min(count, areas.shape[1])).values[:, -1:]
        chosen = better & (areas >= least)
        unit, number = chosen.nonzero(as_tuple=True)
        columns = (v.flatten(1)[unit, number].tolist() for v in (areas, self.sizes, self.sums))
        rows: list[Rows] = [[] for _ in areas]
        for u, n, area, size, total in zip(unit.tolist(), number.tolist(), *columns, strict=True):
            rows[u].append((-area, n, int(size), int(total)))
        return [sorted(of_unit) for of_unit in rows], bool((chosen == better).all())


class _Units:
    """The search of the units of one block."""

    def __init__(self, settings: AurocSearch, ranks: Int[Tensor, "units images"]) -> None:
        self.settings, self.ranks, self.shown = settings, ranks, settings.shown
        everything = torch.ones_like(ranks, dtype=torch.bool)[:, None]
        self.alone = sums_over(everything, self.shown, ranks)  # [units, 1, concepts]
        self.gains = above_half(self.alone, settings.sizes, ranks.shape[1])
        self.beams: list[Beam] = [[] for _ in ranks]

    def search(self) -> list[Beam]:
        self._add(self._single(), 1)
        if self.settings.length > 1:
            joinable = self._joinable()
        for step in range(2, self.settings.length + 1):
            self._add(self._longer(step, joinable), step)
        return self.beams

    def _single(self) -> _Candidates:
        """Score the concepts and negated concepts."""
        sizes = self.settings.sizes.expand_as(self.alone)
        both = torch.stack([sizes, self.ranks.shape[1] - sizes], 2)
        return self._scored(torch.stack([self.alone, -self.alone], 2), both, self.settings.used)

    def _joinable(self) -> Bool[Tensor, "units 1 1 concepts"]:
        """Return which concepts may be joined to a unit's formulas."""
        limit, used = self.settings.limit, self.settings.used
        if limit is None:
            return used.expand_as(self.alone)[:, :, None]
        distance = self.gains.abs().nan_to_num(-1.0)
        order = distance.masked_fill(~used, -1.0).argsort(dim=-1, descending=True, stable=True)
        first = torch.zeros_like(distance, dtype=torch.bool).scatter_(-1, order[..., :limit], True)
        return (first & used)[:, :, None]

    def _longer(self, step: int, joinable: Bool[Tensor, "units 1 1 concepts"]) -> _Candidates:
        """Score all ways of joining a concept to the formulas of the last step."""
        masks, sizes, sums, unused = self._parents(step - 1)
        both, both_sums = sums_over(masks, self.shown), sums_over(masks, self.shown, self.ranks)
        own, alone, images = self.settings.sizes, self.alone, self.ranks.shape[1]
        # In the order of JOINS; F OR NOT c is NOT (c AND NOT F).
        new_sums = (both_sums, sums - both_sums, sums + alone - both_sums, both_sums - alone)
        new_sizes = (both, sizes - both, sizes + own - both, images - own + both)
        all_sizes = torch.stack(new_sizes, 2)
        # As large as one of its parts: shown by the same images as that shorter formula.
        literals = torch.stack([own, images - own, own, images - own])
        is_new = (all_sizes != sizes[:, :, None]) & (all_sizes != literals)
        return self._scored(torch.stack(new_sums, 2), all_sizes, is_new & unused & joinable)

    def _parents(
        self, length: int
    ) -> tuple[
        Bool[Tensor, "units places images"],
        Float[Tensor, "units places 1"],
        Float[Tensor, "units places 1"],
        Bool[Tensor, "units places 1 concepts"],
    ]:
        """Return masks, sizes, sums and unused concepts of the beams' formulas of a length."""
        shape = len(self.beams), self.settings.width
        everything = torch.ones_like(self.shown[0])
        masks = self.shown.new_zeros(*shape, len(everything))
        numbers = torch.zeros(2, *shape, 1, dtype=torch.float64)
        unused = torch.zeros(*shape, 1, len(self.shown), dtype=torch.bool)
        for unit, beam in enumerate(self.beams):
            for place, scored in enumerate(beam):
                if len(scored.formula) == length:
                    masks[unit, place] = scored.formula.images(self.shown, everything)
                    numbers[0, unit, place], numbers[1, unit, place] = scored.size, scored.rank_sum
                    unused[unit, place] = True
                    unused[unit, place, 0, list(scored.formula.concepts)] = False
        sizes, sums = numbers.to(masks.device)
        return masks, sizes, sums, unused.to(masks.device)

    def _scored(
        self,
        sums: Float[Tensor, "units places joins concepts"],
        sizes: Float[Tensor, "units places joins concepts"],
        allowed: Bool[Tensor, "*of concepts"],
    ) -> _Candidates:
        areas = 0.5 + above_half(sums, sizes, self.ranks.shape[1])
        allowed = allowed & self.settings.in_range(sizes)
        return _Candidates(sums, sizes, areas.masked_fill(~allowed, -torch.inf))

    def _add(self, candidates: _Candidates, step: int) -> None:
        """Merge candidates into the beams."""
        width = self.settings.width
        worst = [beam[-1].auroc if len(beam) == width else -torch.inf for beam in self.beams]
        above = torch.tensor(worst, dtype=torch.float64, device=self.ranks.device)
        # A formula arises in up to `step` ways, one per concept joined last.
        count, waiting = width * (step + 1), set(range(len(worst)))
        while waiting:  # again only for units most of whose candidates are copies
            rows, are_all = candidates.best(above, count)
            for unit in tuple(waiting):
                new = self._new(unit, rows[unit], candidates)
                if len(new) == width or are_all:
                    merged = sorted(self.beams[unit] + new, key=lambda s: -s.auroc)  # stable
                    self.beams[unit] = merged[:width]
                    waiting.remove(unit)
            count *= 8

    def _new(self, unit: int, rows: Rows, candidates: _Candidates) -> Beam:
        """Return a unit's best candidates whose images no other formula has."""
        _, _, joins, concepts = candidates.areas.shape
        old, new = self.beams[unit], Beam()
        known: dict[tuple[int, int], set[bytes]] = {}
        for scored in old:
            images = self.settings.images_of(scored.formula)
            known.setdefault((scored.size, scored.rank_sum), set()).add(images)
        for negative_area, number, size, total in rows:
            place, join = divmod(number // concepts, joins)
            parent = old[place].formula if old else LabelFormula()
            formula = parent.joined(JOINS[join], number % concepts)
            images = self.settings.images_of(formula)
            alike = known.setdefault((size, total), set())
            if images not in alike:
                alike.add(images)
                new.append(ScoredFormula(formula, -negative_area, size, total))
            if len(new) == self.settings.width:
                break
        return new
