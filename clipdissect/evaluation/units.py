"""One row a unit: its label, the right one, and how near they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from clipdissect.datasets.class_names import is_a_name, named_by
from clipdissect.errors import DissectError
from clipdissect.evaluation.vectors import Vectors

NO_CLASS = "no class name is among the concepts"
NO_NAME = "no name of any class is among the concepts"
NO_VOCABULARY = "it isn't known what the labels were chosen from: free text, or a file of labels"
NOT_DESCRIBED = "no unit is described"
TOP = 5
EXACT = ("top1", "top5", "mean_rank", "median_rank", "auc")
ANY = "_any_synonym"


@dataclass(frozen=True)
class Units:
    """What the metrics are computed from.

    Args:
        table: `layer, unit, truth, description, similarity`, then what is defined of: `right` and
            `top5` (1 or 0: the class's name, exactly), `rank` (of the right concept; NaN where it
            isn't one or the unit isn't described), `right_any_synonym` and `top5_any_synonym` (any
            of the class's names), and `<sentence encoder>_cos` (NaN where it isn't described).
        reasons: metric to why it is undefined, for those that no row can define.
    """

    table: pd.DataFrame
    reasons: dict[str, str]

    def take(self, rows: Sequence[int] | Int[np.ndarray, " rows"]) -> Units:
        """Some of the units, by row."""
        return Units(self.table.iloc[list(rows)].reset_index(drop=True), self.reasons)


def rows_of(descriptions: pd.DataFrame, layer: str, units: int) -> pd.DataFrame:
    """A layer's descriptions, one row for each unit from 0 on; units that lack get empty labels.

    Args:
        descriptions: of a method.
        layer: whose.
        units: how many there are.

    Raises:
        DissectError: a unit beyond the last.
    """
    rows = descriptions[descriptions["layer"] == layer]
    beyond = rows[rows["unit"] >= units]
    if len(beyond):
        raise DissectError(
            f"layer {layer} has {units} class names, but there are descriptions of unit "
            f"{beyond['unit'].max()}: is it another network's, or do its units count from 1 "
            f"(method.first_unit=1)?"
        )
    rows = rows.set_index("unit").reindex(range(units)).reset_index()
    texts = {str(c): rows[c].fillna("") for c in rows if str(c).startswith("description")}
    whole: pd.DataFrame = rows.assign(layer=layer, **texts)
    return whole


def unit_table(
    rows: pd.DataFrame, names: Sequence[str], concepts: Collection[str] | None,
    cosines: Mapping[str, Vectors | str],
) -> Units:  # fmt: skip
    """The units' table; what it can't have is in the reasons.

    A unit without a description counts as wrong, and has neither rank nor cosine.

    Args:
        rows: one a unit, as of `rows_of`.
        names: the right label of each row.
        concepts: the texts that labels could be chosen from; None where any text could be: then
            every class could have been named.
        cosines: sentence encoder's name to its embeddings, or why it can't be had.

    Raises:
        DissectError: another number of names than rows.
    """
    if len(rows) != len(names):
        raise DissectError(f"there are {len(rows)} units, but {len(names)} right labels")
    described, truth = rows["description"].tolist(), np.asarray(names, dtype=object)
    table = rows[["layer", "unit"]].assign(truth=truth, description=described)
    table["similarity"] = rows["similarity"].astype(float)
    reasons: dict[str, str] = {}
    if concepts is None or set(names) & set(concepts):
        table["right"] = _is_among(rows, truth, 1)
        reasons |= _add_ranks(table, rows, truth)
    else:
        reasons |= dict.fromkeys(EXACT, NO_CLASS)
    if concepts is None or named_by(names, concepts):
        reasons |= _add_synonyms(table, rows, names)
    else:
        reasons |= dict.fromkeys((f"top1{ANY}", f"top5{ANY}"), NO_NAME)
    for name, vectors in cosines.items():
        if isinstance(vectors, str):
            reasons[f"{name}_cos"] = vectors
        else:
            table[f"{name}_cos"] = vectors.cosines(described, list(names))
    return Units(table.reset_index(drop=True), reasons)


def _add_ranks(
    table: pd.DataFrame, rows: pd.DataFrame, truth: np.ndarray
) -> dict[str, str]:  # fmt: skip
    """Put in `rank` and `top5`, from the rank where it is known; what is undefined is returned."""
    if "truth_rank" in rows and rows["truth_rank"].notna().any():
        # Files of labels may rank dead units: they have no description.
        table["rank"] = rows["truth_rank"].astype(float).where(rows["description"] != "")
        table["top5"] = (table["rank"] <= TOP).astype(float)
        return {}
    reason = "the labels come without the rank of the right one"
    reasons = {"mean_rank": reason, "median_rank": reason}
    if _has_runners_up(rows):
        table["top5"] = _is_among(rows, truth, TOP)
        return reasons
    return reasons | {"top5": f"{_TOO_FEW}, and no rank"}


def _add_synonyms(
    table: pd.DataFrame, rows: pd.DataFrame, names: Sequence[str]
) -> dict[str, str]:  # fmt: skip
    """Put in whether a label, and one of the best five, is any name of the class."""
    table[f"right{ANY}"] = np.asarray(is_a_name(rows["description"], names), dtype=float)
    if not _has_runners_up(rows):
        return {f"top5{ANY}": _TOO_FEW}
    found = [is_a_name(rows[column], names) for column in _columns(TOP)]
    exact = table.get("top5", 0.0)
    table[f"top5{ANY}"] = np.maximum(np.any(found, axis=0).astype(float), exact)
    return {}


_TOO_FEW = f"there are fewer than {TOP} labels a unit"


def _columns(best: int) -> list[str]:
    return ["description", *(f"description_{n}" for n in range(2, best + 1))]


def _has_runners_up(rows: pd.DataFrame) -> bool:
    return set(_columns(TOP)) <= set(rows)


def _is_among(
    rows: pd.DataFrame, truth: np.ndarray, best: int
) -> Float[np.ndarray, " units"]:  # fmt: skip
    """1 where one of the unit's best labels is the right one, exactly; else 0."""
    found = [rows[c].to_numpy(dtype=object) == truth for c in _columns(best)]
    return np.asarray(np.any(found, axis=0), dtype=float)
