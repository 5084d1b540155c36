"""Controls: metrics of labels that don't depend on the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from clipdissect.datasets.class_names import is_a_name, synonyms
from clipdissect.evaluation.units import ANY, TOP, Units
from clipdissect.evaluation.vectors import Vectors

NO_ORDER = "a constant order of the concepts that is chosen knowing the truth is no control"
_KEYS = ["layer", "unit", "truth"]


def best_constant(
    units: Units, concepts: Sequence[str], cosines: Mapping[str, Vectors]
) -> tuple[Units, dict[str, str]]:
    """Return a table in which all units get the best constant label, and that label, per metric."""
    # Chosen with the ground truth, so no constant label is better. `top5` gets a list of five.
    # There is no rank, because the best constant order lists the class names first.
    truth = units.table["truth"].tolist()
    table, chosen = units.table[_KEYS].copy(), {}
    for name, vectors in cosines.items():
        mean_cosines = vectors.of(concepts) @ vectors.of(truth).mean(0)
        label = concepts[int(mean_cosines.argmax())]
        chosen[f"{name}_cos"] = label
        table[f"{name}_cos"] = vectors.cosines([label] * len(truth), truth)
    known = set(concepts)
    commonest = Counter(name for name in truth if name in known).most_common(TOP)
    order = [name for name, _ in commonest]
    if "right" in units.table:
        table["right"] = np.isin(truth, order[:1]).astype(float)
        chosen |= {"top1": order[0]} if order else {}
    if "top5" in units.table:
        table["top5"] = np.isin(truth, order).astype(float)
    if f"right{ANY}" in units.table:
        label = _commonest_synonym(truth, concepts)
        table[f"right{ANY}"] = np.asarray(is_a_name([label] * len(truth), truth), dtype=float)
        chosen |= {f"top1{ANY}": label} if label else {}
    ranks = {name: NO_ORDER for name in ("mean_rank", "median_rank") if "rank" in units.table}
    return Units(table, _reasons(units) | ranks), chosen


def _commonest_synonym(truth: Sequence[str], concepts: Sequence[str]) -> str:
    """Return the concept that is a name of the most classes; empty if there is none."""
    names = Counter(synonym for name in truth for synonym in synonyms(name))
    best = max(concepts, key=lambda text: names[text.casefold()], default="")
    return best if names[best.casefold()] else ""


def random_labels(
    units: Units, concepts: Sequence[str], cosines: Mapping[str, Vectors], seed: int
) -> Units:
    """Rank the concepts uniformly at random per unit; the first is its label."""
    truth = units.table["truth"].tolist()
    generator = np.random.default_rng(seed)
    number = {text: i for i, text in enumerate(concepts)}
    right = np.array([number.get(name, -1) for name in truth])
    drawn = generator.integers(0, len(concepts), len(truth))
    # If the first label is wrong, the right one is equally likely at every later rank.
    later = generator.integers(2, max(len(concepts), 2) + 1, len(truth))
    ranks = np.where(right < 0, np.nan, np.where(drawn == right, 1.0, later))
    labels = [concepts[i] for i in drawn]
    table = units.table[_KEYS].assign(description=labels)
    for name, vectors in cosines.items():
        table[f"{name}_cos"] = vectors.cosines(labels, truth)
    columns = {
        "right": ranks == 1,
        "top5": ranks <= TOP,
        "rank": ranks,
        f"right{ANY}": is_a_name(labels, truth),
    }
    for name, column in columns.items():
        if name in units.table:
            table[name] = np.asarray(column, dtype=float)
    return Units(table, _reasons(units))


def _reasons(units: Units) -> dict[str, str]:
    return units.reasons | {
        "auc": "these labels have no score",
        f"top5{ANY}": "there is one label a unit, not five",
    }
