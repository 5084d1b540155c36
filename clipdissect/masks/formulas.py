"""Formulas of concepts: one concept after the other, joined by AND, OR or AND NOT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clipdissect.datasets.segmentation import Concept
from clipdissect.masks.kernels.plain import AND, AND_NOT, OR

OPERATORS = {AND: "AND", OR: "OR", AND_NOT: "AND NOT"}


@dataclass(frozen=True)
class Formula:
    """`((c1 op2 c2) op3 c3) ...`: a pixel shows it if it shows the concepts in this way.

    Args:
        operands: numbers of the concepts.
        operators: how each is joined to what stands before it; the first means nothing.
    """

    operands: tuple[int, ...]
    operators: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.operands)

    def joined(self, operator: int, operand: int) -> Formula:
        """One concept longer."""
        return Formula((*self.operands, operand), (*self.operators, operator))

    def text(self, concepts: Sequence[Concept]) -> str:
        """In words, such as `(red-c OR blue-c) AND NOT circle`."""
        found = concepts[self.operands[0]].text
        for place in range(1, len(self)):
            before = f"({found})" if place > 1 else found
            operand = concepts[self.operands[place]].text
            found = f"{before} {OPERATORS[self.operators[place]]} {operand}"
        return found

    def tree(self, concepts: Sequence[Concept]) -> dict[str, Any]:
        """JSON-able: `{"op": "AND", "of": [..., {"op": "NOT", "of": [...]}]}` down to concepts."""
        leaves = [
            {"category": concepts[n].category, "label": concepts[n].label} for n in self.operands
        ]
        found: dict[str, Any] = leaves[0]
        for operator, leaf in zip(self.operators[1:], leaves[1:], strict=True):
            right = {"op": "NOT", "of": [leaf]} if operator == AND_NOT else leaf
            found = {"op": "OR" if operator == OR else "AND", "of": [found, right]}
        return found

    def key(self) -> Any:
        """The same for formulas that differ in the order of operands that may change places.

        These are the operands of a run of ORs, and those of a run of ANDs and AND NOTs; the first
        operand belongs to the first run.
        """
        found: Any = self.operands[0]
        run: list[tuple[bool, Any]] = []
        is_or: bool | None = None
        for operator, operand in zip(self.operators[1:], self.operands[1:], strict=True):
            if is_or is not (operator == OR):
                found = _settled(found, is_or, run)
                is_or, run = operator == OR, [(False, found)]
            run.append((operator == AND_NOT, operand))
        return _settled(found, is_or, run)


def _settled(found: Any, is_or: bool | None, run: list[tuple[bool, Any]]) -> Any:
    return found if is_or is None else (is_or, frozenset(run))
