"""Formulas of texts as JSON-able trees: AND, OR, NOT and weighted sums.

A leaf is `{"label": text}`, with further keys such as `category`, and `text` where the text isn't
the label; a node is `{"op": "AND", "of": [...]}`, of `SUM` with `weights` and `bias`, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.utils.type_checks import shortened

COLUMN = "formula"  # of tables of descriptions; empty: the description is a single text
START = '{"op":'  # of a written tree that isn't a leaf
WRITTEN = (START, '{"label":', '{"category":')
AND, OR, NOT, SUM = OPERATORS = ("AND", "OR", "NOT", "SUM")

Tree = Mapping[str, Any]
Values = Float[Tensor, " images"]


def leaf(text: str) -> dict[str, Any]:
    return {"label": text}


def node(operator: str, *operands: Tree) -> dict[str, Any]:
    return {"op": operator, "of": list(operands)}


def weighted_sum(
    texts: Sequence[str], weights: Sequence[float], bias: float = 0.0
) -> dict[str, Any]:
    """Return the tree of `sum_i weights_i * texts_i + bias`."""
    of = [leaf(text) for text in texts]
    return {"op": SUM, "of": of, "weights": [float(w) for w in weights], "bias": float(bias)}


def written(tree: Tree) -> str:
    """Return a tree as one cell of a table."""
    return json.dumps(tree, ensure_ascii=False)


def read(label: str) -> Tree:
    """Return the tree of a label, which is a written tree or a single text.

    Raises:
        DissectError: it starts like a written tree, but is none.
    """
    if not label.startswith(WRITTEN):
        return leaf(label)
    try:
        tree: dict[str, Any] = json.loads(label)
    except json.JSONDecodeError as error:
        raise _malformed(label) from error
    if not _is_tree(tree):
        raise _malformed(label)
    return tree


def _is_tree(tree: Any) -> bool:
    if not isinstance(tree, dict):
        return False
    if "op" not in tree:
        return "label" in tree or "text" in tree
    of = tree.get("of")
    if tree["op"] not in OPERATORS or not isinstance(of, list) or not all(map(_is_tree, of)):
        return False
    if tree["op"] == SUM:
        return len(of) > 0 and _are_numbers(tree.get("weights"), len(of))
    return len(of) == 1 if tree["op"] == NOT else len(of) > 0


def _are_numbers(weights: Any, count: int) -> bool:
    is_list = isinstance(weights, list) and len(weights) == count
    return is_list and all(isinstance(w, (int, float)) for w in weights)


def _malformed(label: str) -> DissectError:
    return DissectError(
        f"the formula {shortened(label)} isn't a tree of AND, OR, NOT and SUM, such as "
        f"{written(node(OR, leaf('dog'), leaf('cat')))}: correct the column {COLUMN}, or delete it"
    )


def labels_of(table: pd.DataFrame) -> list[str]:
    """Return each unit's label: its formula if it has one, else its description."""
    texts = table["description"].fillna("").astype(str).tolist()
    if COLUMN not in table:
        return texts
    cells = table[COLUMN].fillna("").astype(str)
    is_formula = cells.str.startswith(START)
    pairs = zip(texts, cells, is_formula, strict=True)
    return [cell if text and is_one else text for text, cell, is_one in pairs]


def text_of_leaf(tree: Tree) -> str:
    return str(tree["text"] if "text" in tree else tree["label"])


def texts_of(tree: Tree) -> Iterator[str]:
    """Yield the texts of the leaves, from left to right."""
    if "op" not in tree:
        yield text_of_leaf(tree)
    for part in tree.get("of", ()):
        yield from texts_of(part)


def evaluate(tree: Tree, values_of: Callable[[str], Values]) -> Values:
    """Return the values of a tree from those of its texts, in 0..1.

    AND is the minimum, OR the maximum, NOT one minus the value: of values 0 and 1, the logical
    operators.
    """
    if "op" not in tree:
        return values_of(text_of_leaf(tree))
    parts = torch.stack([evaluate(part, values_of) for part in tree["of"]])
    if tree["op"] == SUM:
        weights = torch.tensor(tree["weights"], dtype=parts.dtype, device=parts.device)
        return weights @ parts + float(tree.get("bias", 0.0))
    if tree["op"] == NOT:
        return 1 - parts[0]
    return parts.amin(0) if tree["op"] == AND else parts.amax(0)


def to_text(tree: Tree) -> str:
    """Return a tree in words: `(red OR blue) AND NOT circle`, `0.52 dog + 0.3 cat`."""
    if "op" not in tree:
        return text_of_leaf(tree)
    if tree["op"] == NOT:
        return f"NOT {_inner(tree['of'][0])}"
    if tree["op"] != SUM:
        return f" {tree['op']} ".join(map(_inner, tree["of"]))
    terms = zip(tree["weights"], tree["of"], strict=True)
    text = " ".join(f"{'-' if w < 0 else '+'} {abs(w):.2g} {_inner(t)}" for w, t in terms)
    return text.removeprefix("+ ")


def _inner(tree: Tree) -> str:
    text = to_text(tree)
    return f"({text})" if tree.get("op") in (AND, OR, SUM) else text
