"""What labels that know nothing of the network would reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from clipdissect.datasets.class_names import is_a_name, synonyms
from clipdissect.evaluation.units import ANY, TOP, Units
from clipdissect.evaluation.vectors import Vectors

NO_ORDER = "a constant order of the concepts that is chosen knowing the truth is no control"


def best_constant(
    units: Units, concepts: Sequence[str], cosines: Mapping[str, Vectors]
) -> tuple[Units, dict[str, str]]:
    """The same label for every unit: for each metric the concept that reaches most in it.

    It is chosen knowing the truth, so no constant label is better. For `top5` it is a list of five.
    It has no rank: the order of all concepts that is best on average lists the class names first,
    which nobody could without the truth.

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
    order = [name for name, _ in Counter(t for t in truth if t in inside).most_common(TOP)]
    if "right" in units.table:
        table["right"] = np.isin(truth, order[:1]).astype(float)
        chosen |= {"top1": order[0]} if order else {}
    if "top5" in units.table:
        table["top5"] = np.isin(truth, order).astype(float)
    if f"right{ANY}" in units.table:
        label = _commonest_name(truth, concepts)
        table[f"right{ANY}"] = np.asarray(is_a_name([label] * len(truth), truth), dtype=float)
        chosen |= {f"top1{ANY}": label} if label else {}
    ranks = {name: NO_ORDER for name in ("mean_rank", "median_rank") if "rank" in units.table}
    return Units(table, _reasons(units) | ranks), chosen


def _commonest_name(truth: Sequence[str], concepts: Sequence[str]) -> str:
    """The concept that is a name of most classes; empty where none is of any."""
    names = Counter(name for own in truth for name in synonyms(own))
    best = max(concepts, key=lambda text: names[text.casefold()], default="")
    return best if names[best.casefold()] else ""


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
    columns = {"right": ranks == 1, "top5": ranks <= TOP, "rank": ranks,
               f"right{ANY}": is_a_name(labels, truth)}  # fmt: skip
    for name, column in columns.items():
        if name in units.table:
            table[name] = np.asarray(column, dtype=float)
    return Units(table, _reasons(units))


def _start(units: Units) -> pd.DataFrame:
    start: pd.DataFrame = units.table[["layer", "unit", "truth"]].copy()
    return start


def _reasons(units: Units) -> dict[str, str]:
    reasons = units.reasons | {"auc": "these labels have no score"}
    return reasons | {f"top5{ANY}": "there is one label a unit, not five"}
