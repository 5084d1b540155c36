"""Compositional Explanations, held to searches done slowly in exact fractions."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dense import LABELS, SIZES, fired, maps_of, read_plainly, write_dense
from test_network_dissection import SHARE, describe

from clipdissect import method
from clipdissect.datasets.segmentation import Concept
from clipdissect.errors import DissectError
from clipdissect.masks.formulas import Formula
from clipdissect.masks.kernels.plain import AND, AND_NOT, OR

CONCEPTS = [(category, name) for category, labels in LABELS.items() for name in labels]
Chain = tuple[tuple[int, ...], tuple[int, ...]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_dense(tmp_path / "set")
    return tmp_path / "set"


class Plain:
    """Scores of formulas by the definition, one at a time."""

    def __init__(self, root: Path) -> None:
        images, self.shown, self.annotated = read_plainly(root)
        sizes = [SIZES[i % 2] for i in range(len(images))]
        self.units = fired(maps_of(root, images), sizes, str(SHARE))

    def masks(self, chain: Chain) -> list[np.ndarray]:
        operands, operators = chain
        found = [m.copy() for m in self.shown[CONCEPTS[operands[0]]]]
        for operator, operand in zip(operators[1:], operands[1:], strict=True):
            for mask, other in zip(found, self.shown[CONCEPTS[operand]], strict=True):
                if operator == OR:
                    mask |= other
                else:
                    mask &= other if operator == AND else ~other
        return found

    def score(self, unit: int, chain: Chain) -> Fraction:
        """IoU over the images annotated in any category of the formula."""
        categories = {CONCEPTS[n][0] for n in chain[0]}
        both = either = 0
        for image, (mine, theirs) in enumerate(
            zip(self.units[unit], self.masks(chain), strict=True)
        ):
            if any(self.annotated[c][image] for c in categories):
                both += int((mine & theirs).sum())
                either += int((mine | theirs).sum())
        return Fraction(both, either) if either else Fraction(0)

    def longer(self, chain: Chain) -> Iterator[Chain]:
        operands, operators = chain
        for operator in (AND, OR, AND_NOT):
            for n in range(len(CONCEPTS)):
                if n not in operands:
                    yield (*operands, n), (*operators, operator)

    def beam(self, unit: int, length: int, width: int) -> list[Fraction]:
        """Scores of the best formulas of a beam search in which equal masks stand once."""
        singles: list[Chain] = [((n,), (AND,)) for n in range(len(CONCEPTS))]
        beam = sorted(((self.score(unit, c), c) for c in singles), key=lambda pair: -pair[0])
        beam = [pair for pair in beam if pair[0]][:width]
        for step in range(2, length + 1):
            fresh: dict[Any, tuple[Fraction, Chain]] = {}
            for _, chain in beam:
                if len(chain[0]) < step - 1:
                    continue
                for longer in self.longer(chain):
                    masks = self.masks(longer)
                    alone = self.masks(((longer[0][-1],), (AND,)))
                    if any(self._same(masks, m) for m in (self.masks(chain), alone)):
                        continue
                    key = Formula(*longer).key()
                    fresh.setdefault(key, (self.score(unit, longer), longer))
            both = [*beam, *fresh.values()]
            beam = sorted(both, key=lambda pair: -pair[0])[:width]
        return [score for score, _ in beam]

    @staticmethod
    def _same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
        return all((a == b).all() for a, b in zip(one, other, strict=True))


def test_one_concept_is_network_dissection(root: Path) -> None:
    plain = describe(root, "pool", "conv").descriptions
    for name in ("length", "beam"):
        options = {"length": 1} if name == "length" else {"length": 1, "beam": 1}
        table = describe(root, "pool", "conv", name="compositional", **options).descriptions
        for column in (
            "description",
            "similarity",
            "category",
            "label",
            "score",
            "unit_flags",
            "detector",
            "threshold",
        ):
            if column != "label":  # ours is the text of the formula
                assert list(table[column]) == list(plain[column]), column
    assert list(table["label_1"]) == list(plain["label"])
    longer = describe(root, "pool", "conv", name="compositional").descriptions
    assert list(longer["iou_1"]) == list(plain["similarity"])
    assert (longer["similarity"] >= plain["similarity"]).all()


def test_scores_are_those_of_a_plain_beam_search(root: Path) -> None:
    plain = Plain(root)
    for length, width in ((2, 3), (3, 2)):
        table = describe(root, "pool", name="compositional", length=length, beam=width).descriptions
        for unit in range(3):
            expected = [float(score) for score in plain.beam(unit, length, width)]
            columns = ["similarity", *(f"similarity_{n}" for n in range(2, width + 1))]
            assert table.loc[unit, columns].tolist() == expected


def test_a_wide_beam_finds_the_best_of_all_pairs(root: Path) -> None:
    plain = Plain(root)
    table = describe(root, "pool", name="compositional", length=2, beam=9).descriptions
    pairs = [
        ((a, b), (AND, operator))
        for a, b in itertools.permutations(range(len(CONCEPTS)), 2)
        for operator in (AND, OR, AND_NOT)
    ]
    for unit in range(4):
        best = max(plain.score(unit, pair) for pair in pairs)
        single = max(plain.score(unit, ((n,), (AND,))) for n in range(len(CONCEPTS)))
        assert table["similarity"][unit] == float(max(best, single))


def test_the_formula_column_is_what_was_scored(root: Path) -> None:
    plain = Plain(root)
    table = describe(root, "pool", name="compositional").descriptions
    assert table["length"].max() == 3
    for unit, row in table.iterrows():
        tree = json.loads(row["formula"])
        chain = chain_of(tree)
        assert len(chain[0]) == row["length"]
        assert float(plain.score(int(str(unit)), chain)) == row["similarity"]
        named = [Concept(c, n, n.removesuffix("-s")) for c, n in CONCEPTS]
        assert Formula(*chain).text(named) == row["description"]
        assert set(row["category"].split(";")) == {CONCEPTS[n][0] for n in chain[0]}


def chain_of(tree: dict[str, Any]) -> Chain:
    if "op" not in tree:
        return (CONCEPTS.index((tree["category"], tree["label"])),), (AND,)
    left, right = tree["of"]
    operator = {"AND": AND, "OR": OR}[tree["op"]]
    if right.get("op") == "NOT":
        operator, right = AND_NOT, right["of"][0]
    operands, operators = chain_of(left)
    return (*operands, *chain_of(right)[0]), (*operators, operator)


def test_plain_loops_give_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = describe(root, "pool", name="compositional").descriptions
    monkeypatch.setenv("CLIPDISSECT_KERNELS", "torch")
    again = describe(root, "pool", name="compositional").descriptions
    pd.testing.assert_frame_equal(again, compiled)


def test_formulas_read_well() -> None:
    named = [Concept("color", n, n) for n in ("red", "blue", "sky")]
    formula = Formula((0, 1, 2), (AND, OR, AND_NOT))
    assert formula.text(named) == "(red OR blue) AND NOT sky"
    assert formula.tree(named) == {
        "op": "AND",
        "of": [
            {
                "op": "OR",
                "of": [
                    {"category": "color", "label": "red"},
                    {"category": "color", "label": "blue"},
                ],
            },
            {"op": "NOT", "of": [{"category": "color", "label": "sky"}]},
        ],
    }


def test_operands_that_may_change_places_make_one_formula() -> None:
    def key(operands: tuple[int, ...], *operators: int) -> Any:
        return Formula(operands, (AND, *operators)).key()

    assert key((0, 1), OR) == key((1, 0), OR) != key((0, 1), AND)
    assert key((0, 1, 2), OR, OR) == key((2, 1, 0), OR, OR)
    assert (
        key((0, 1, 2), AND, AND_NOT) == key((0, 2, 1), AND_NOT, AND) == key((1, 0, 2), AND, AND_NOT)
    )
    assert key((0, 1), AND_NOT) != key((1, 0), AND_NOT)
    assert key((0, 1, 2), OR, AND) == key((1, 0, 2), OR, AND) != key((0, 2, 1), OR, AND)


@pytest.mark.parametrize("options", [{"length": 0}, {"beam": 0}, {"length": 99}])
def test_mistakes(options: dict[str, int]) -> None:
    with pytest.raises(DissectError, match=r"method\.(length|beam)"):
        method.build("compositional", **options)
