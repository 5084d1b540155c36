"""Values of labels, some of them formulas of several texts, from those of their texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from clipdissect.results.formulas import OR, SUM, Tree, evaluate, read, texts_of


def distinct_texts(labels: Sequence[str]) -> list[str]:
    """Return the texts in labels, each once."""
    return list(dict.fromkeys(text for label in labels for text in texts_of(read(label))))


def values_of(
    labels: Sequence[str],
    texts: Sequence[str],
    values: Float[Tensor, "rows texts"],
    in_formulas: Float[Tensor, "rows texts"] | None = None,
) -> Float[Tensor, "rows labels"]:
    """Return the values of labels from those of `distinct_texts`; see `formulas.evaluate`.

    `in_formulas` are the texts' values as parts of formulas, from 0 to 1, where others are needed.
    """
    column = {text: number for number, text in enumerate(texts)}
    if all(label in column for label in labels):
        return values[:, [column[label] for label in labels]]
    parts = values if in_formulas is None else in_formulas
    columns = [
        values[:, column[label]]
        if label in column
        else evaluate(read(label), lambda text: parts[:, column[text]])
        for label in labels
    ]
    return torch.stack(columns, 1)


def rescaled(
    labels: Sequence[str], values: Float[Tensor, "rows labels"]
) -> Shaped[Tensor, "rows labels"]:
    """Return values of 0 and 1 as bool; weighted sums are scaled to 0..1."""
    sums = torch.tensor([read(label).get("op") == SUM for label in labels], device=values.device)
    if not sums.any():
        return values > 0.5
    low, high = values[:, sums].aminmax(dim=0)
    scaled = values.clone()
    scaled[:, sums] = (values[:, sums] - low) / (high - low).clamp(min=1e-12)
    return scaled


def alternatives(label: str) -> list[str] | None:
    """Return the texts that a label joins by OR, or its only text; None if it has other parts."""
    found = list(_alternatives(read(label)))
    return None if None in found else [text for text in found if text is not None]


def _alternatives(tree: Tree) -> Iterator[str | None]:
    if tree.get("op") == OR:
        for part in tree["of"]:
            yield from _alternatives(part)
    else:
        yield None if "op" in tree else next(texts_of(tree))
