"""Formulas of concepts joined from the left by AND, OR or AND NOT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clipdissect.datasets.segmentation import Concept
from clipdissect.masks.kernels.plain import AND, AND_NOT, OR

OPERATORS = {AND: "AND", OR: "OR", AND_NOT: "AND NOT"}


@dataclass(frozen=True)
class Formula:
    """The left-associative formula `((c1 op2 c2) op3 c3) ...`; `operators[0]` is ignored."""

    operands: tuple[int, ...]
    operators: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.operands)

    def joined(self, operator: int, operand: int) -> Formula:
        """Return the formula with one more concept."""
        return Formula((*self.operands, operand), (*self.operators, operator))

    def text(self, concepts: Sequence[Concept]) -> str:
        """Return the formula in words, such as `(red-c OR blue-c) AND NOT circle`."""
        text = concepts[self.operands[0]].text
        for place in range(1, len(self)):
            left = f"({text})" if place > 1 else text
            right = concepts[self.operands[place]].text
            text = f"{left} {OPERATORS[self.operators[place]]} {right}"
        return text

    def tree(self, concepts: Sequence[Concept]) -> dict[str, Any]:
        """Return JSON-able nodes, as in `results.formulas`."""
        leaves = [_leaf(concepts[n]) for n in self.operands]
        tree: dict[str, Any] = leaves[0]
        for operator, leaf in zip(self.operators[1:], leaves[1:], strict=True):
            right = {"op": "NOT", "of": [leaf]} if operator == AND_NOT else leaf
            tree = {"op": "OR" if operator == OR else "AND", "of": [tree, right]}
        return tree

    def key(self) -> Any:
        """Return a key that ignores the order of commuting operands."""
        # Operands commute within a run of ORs, and within a run of ANDs and AND NOTs; the first
        # operand belongs to the first run.
        key: Any = self.operands[0]
        run: list[tuple[bool, Any]] = []
        is_or: bool | None = None
        for operator, operand in zip(self.operators[1:], self.operands[1:], strict=True):
            if is_or is not (operator == OR):
                key = _run_key(key, is_or, run)
                is_or, run = operator == OR, [(False, key)]
            run.append((operator == AND_NOT, operand))
        return _run_key(key, is_or, run)


def _leaf(concept: Concept) -> dict[str, Any]:
    leaf = {"category": concept.category, "label": concept.label}
    return leaf if concept.text == concept.label else {**leaf, "text": concept.text}


def _run_key(key: Any, is_or: bool | None, run: list[tuple[bool, Any]]) -> Any:
    return key if is_or is None else (is_or, frozenset(run))
