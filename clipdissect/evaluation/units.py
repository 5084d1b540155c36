"""One row per unit: its label, the right label, and how similar they are."""

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
TOP_COLUMNS = ["description", *(f"description_{rank}" for rank in range(2, TOP + 1))]
EXACT = ("top1", "top5", "mean_rank", "median_rank", "auc")
ANY = "_any_synonym"
_TOO_FEW = f"there are fewer than {TOP} labels per unit"


@dataclass(frozen=True)
class Units:
    """The table that metrics are computed from, and the reasons of metrics no row can define.

    `table` has `layer, unit, truth, description, similarity`, then, where defined: `right` and
    `top5` (1 or 0: the exact class name), `rank` (of the right concept), `right_any_synonym`
    and `top5_any_synonym` (any class name), and `<sentence encoder>_cos`. Ranks and cosines are
    NaN for units that aren't described; ranks also if the right label is no concept.
    """

    table: pd.DataFrame
    reasons: dict[str, str]

    def take(self, rows: Sequence[int] | Int[np.ndarray, " rows"]) -> Units:
        """Select units by row."""
        return Units(self.table.iloc[list(rows)].reset_index(drop=True), self.reasons)


def rows_of(descriptions: pd.DataFrame, layer: str, units: int) -> pd.DataFrame:
    """Return a layer's descriptions, one row per unit from 0 to `units - 1`; missing: empty."""
    rows = descriptions[descriptions["layer"] == layer]
    beyond = rows[rows["unit"] >= units]
    if len(beyond):
        raise DissectError(
            f"layer {layer} has {units} class names, but there are descriptions of unit "
            f"{beyond['unit'].max()}: are they of another network, or numbered from 1 "
            f"(method.first_unit=1)?"
        )
    rows = rows.set_index("unit").reindex(range(units)).reset_index()
    texts = {str(c): rows[c].fillna("") for c in rows if str(c).startswith("description")}
    complete: pd.DataFrame = rows.assign(layer=layer, **texts)
    return complete


def unit_table(
    rows: pd.DataFrame,
    names: Sequence[str],
    concepts: Collection[str] | None,
    cosines: Mapping[str, Vectors | str],
) -> Units:
    """Return the units' table; a unit without a description is wrong, without rank and cosine.

    `rows` are from `rows_of`, with right labels `names`; `concepts` are the possible labels,
    None if any text is.
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


def _add_ranks(table: pd.DataFrame, rows: pd.DataFrame, truth: np.ndarray) -> dict[str, str]:
    """Add `rank` and `top5`, from the rank if known; return the reasons of undefined metrics."""
    if "truth_rank" in rows and rows["truth_rank"].notna().any():
        # Files of labels may rank dead units: they have no description.
        table["rank"] = rows["truth_rank"].astype(float).where(rows["description"] != "")
        table["top5"] = (table["rank"] <= TOP).astype(float)
        return {}
    reason = "the labels come without the rank of the right one"
    reasons = {"mean_rank": reason, "median_rank": reason}
    if set(TOP_COLUMNS) <= set(rows):
        table["top5"] = _is_among(rows, truth, TOP)
        return reasons
    return reasons | {"top5": f"{_TOO_FEW}, and no rank"}


def _add_synonyms(table: pd.DataFrame, rows: pd.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """Add whether the label, or one of the top five, is any name of the class."""
    table[f"right{ANY}"] = np.asarray(is_a_name(rows["description"], names), dtype=float)
    if not set(TOP_COLUMNS) <= set(rows):
        return {f"top5{ANY}": _TOO_FEW}
    hits = [is_a_name(rows[column], names) for column in TOP_COLUMNS]
    exact = table.get("top5", 0.0)
    table[f"top5{ANY}"] = np.maximum(np.any(hits, axis=0).astype(float), exact)
    return {}


def _is_among(rows: pd.DataFrame, truth: np.ndarray, top: int) -> Float[np.ndarray, " units"]:
    """Return 1 where one of the unit's top labels is exactly right, else 0."""
    labels = rows[TOP_COLUMNS[:top]].to_numpy(dtype=object)
    return np.asarray((labels == truth[:, None]).any(axis=1), dtype=float)
