"""What labels that know nothing of the network would reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from clipdissect.evaluation.units import TOP, Units
from clipdissect.evaluation.vectors import Vectors


def best_constant(
    units: Units, concepts: Sequence[str], cosines: Mapping[str, Vectors]
) -> tuple[Units, dict[str, str]]:
    """The same label for every unit: for each metric the concept that reaches most in it.

    It is chosen knowing the truth, so no constant label is better. For `top5` it is a list of five,
    for the ranks one order of all concepts: the commonest right labels first.

    Args:
        units: whose truth; only metrics that these have are filled in.
        concepts: what to choose from.
        cosines: sentence encoder's name to embeddings of concepts and truth.

    Returns:
        The control's table, and metric to the chosen label.
    """
    truth = units.table["truth"].tolist()
    table, chosen = _start(units), {}
    for name, vectors in cosines.items():
        mean = vectors.of(truth).mean(0)
        means = vectors.of(concepts) @ mean
        label = concepts[int(means.argmax())]
        chosen[f"{name}_cos"] = label
        table[f"{name}_cos"] = vectors.cosines([label] * len(truth), truth)
    inside = set(concepts)
    order = [name for name, _ in Counter(t for t in truth if t in inside).most_common()]
    place = {name: i + 1.0 for i, name in enumerate(order)}
    ranks = np.array([place.get(name, np.nan) for name in truth])
    _add(table, units, ranks)
    if "right" in table and order:
        chosen["top1"] = order[0]
    return Units(table, _reasons(units)), chosen


def random_labels(
    units: Units, concepts: Sequence[str], cosines: Mapping[str, Vectors], seed: int
) -> Units:
    """Each unit's concepts in a random order, all orders as likely; the first is its label.

    Args:
        units: whose truth; only metrics that these have are filled in.
        concepts: what to draw from.
        cosines: sentence encoder's name to embeddings of concepts and truth.
        seed: of the draw.
    """
    truth = units.table["truth"].tolist()
    generator = np.random.default_rng(seed)
    number = {text: i for i, text in enumerate(concepts)}
    right = np.array([number.get(name, -1) for name in truth])
    drawn = generator.integers(0, len(concepts), len(truth))
    # A wrong label leaves the right one any other place, from the second on.
    later = generator.integers(2, max(len(concepts), 2) + 1, len(truth))
    ranks = np.where(right < 0, np.nan, np.where(drawn == right, 1.0, later))
    labels = [concepts[i] for i in drawn]
    table = _start(units).assign(description=labels)
    for name, vectors in cosines.items():
        table[f"{name}_cos"] = vectors.cosines(labels, truth)
    _add(table, units, ranks)
    return Units(table, _reasons(units))


def _start(units: Units) -> pd.DataFrame:
    start: pd.DataFrame = units.table[["layer", "unit", "truth"]].copy()
    return start


def _add(table: pd.DataFrame, units: Units, ranks: Float[np.ndarray, " units"]) -> None:
    """What follows from the rank, as far as the labels have it."""
    columns = {"right": (ranks == 1).astype(float), "top5": (ranks <= TOP).astype(float),
               "rank": ranks}  # fmt: skip
    for name, column in columns.items():
        if name in units.table:
            table[name] = column


def _reasons(units: Units) -> dict[str, str]:
    return units.reasons | {"auc": "these labels have no score"}
