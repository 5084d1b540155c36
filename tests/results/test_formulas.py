"""Formulas of texts: their values, their words, and what is scored of a table."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from clipdissect.errors import DissectError
from clipdissect.results.formulas import (
    AND,
    NOT,
    OR,
    evaluate,
    labels_of,
    leaf,
    node,
    read,
    texts_of,
    to_text,
    weighted_sum,
    written,
)

VALUES = {
    "red": torch.tensor([0.0, 0.25, 1.0]),
    "dog": torch.tensor([1.0, 0.5, 1.0]),
    "tree": torch.tensor([0.0, 1.0, 0.0]),
}
TREES = [
    (leaf("red"), "red", [0.0, 0.25, 1.0]),
    (node(NOT, leaf("dog")), "NOT dog", [0.0, 0.5, 0.0]),
    (node(AND, leaf("red"), leaf("dog")), "red AND dog", [0.0, 0.25, 1.0]),
    (
        node(OR, node(AND, leaf("red"), node(NOT, leaf("dog"))), leaf("tree")),
        "(red AND NOT dog) OR tree",
        [0.0, 1.0, 0.0],
    ),
    (
        weighted_sum(["dog", "tree", "red"], [2.0, -0.5, 0.123], bias=1.0),
        "2 dog - 0.5 tree + 0.12 red",
        [3.0, 1.53075, 3.123],
    ),
]


@pytest.mark.parametrize(("tree", "words", "values"), TREES, ids=[t[1] for t in TREES])
def test_values_words_and_cells(tree: dict[str, object], words: str, values: list[float]) -> None:
    assert evaluate(tree, VALUES.__getitem__).tolist() == pytest.approx(values)
    assert to_text(tree) == words
    assert read(written(tree)) == tree
    assert set(texts_of(read(written(tree) if "op" in tree else "red"))) <= set(VALUES)


def test_a_leaf_has_its_text_where_the_label_is_another() -> None:
    tree = node(OR, {"category": "scene", "label": "coast-s", "text": "coast"}, leaf("sea"))
    assert to_text(tree) == "coast OR sea"
    assert list(texts_of(tree)) == ["coast", "sea"]


def test_labels_of_a_table() -> None:
    formula = written(node(OR, leaf("a"), leaf("b")))
    table = pd.DataFrame(
        {
            "description": ["a", "a OR b", "", None, "c"],
            "formula": ["", formula, formula, None, written(leaf("c"))],
        }
    )
    assert labels_of(table) == ["a", formula, "", "", "c"]
    assert labels_of(table[["description"]]) == ["a", "a OR b", "", "", "c"]


@pytest.mark.parametrize(
    "label",
    [
        '{"op": "XOR", "of": [{"label": "a"}, {"label": "b"}]}',
        '{"op": "AND", "of": [',
        '{"op": "AND"}',
        '{"op": "AND", "of": []}',
        '{"op": "AND", "of": ["a", "b"]}',
        '{"op": "NOT", "of": [{"label": "a"}, {"label": "b"}]}',
        '{"op": "SUM", "of": [{"label": "a"}]}',
        '{"op": "SUM", "of": [{"label": "a"}], "weights": ["1"]}',
        '{"op": "SUM", "of": [{"label": "a"}], "weights": [1, 2]}',
    ],
)
def test_a_malformed_formula_is_refused(label: str) -> None:
    with pytest.raises(DissectError, match=r"isn't a tree.*correct the column formula"):
        read(label)
