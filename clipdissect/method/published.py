"""Labels read from a file, published or of an earlier run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from clipdissect.errors import DissectError, MissingResource, unknown
from clipdissect.method.base import Job, Method
from clipdissect.results import flags
from clipdissect.results.manifest import environment
from clipdissect.results.tables import ResultTables
from clipdissect.utils import hashing

_SCORES = re.compile(r"similarity_\d+|margin|truth_rank|null_similarity")


@dataclass(frozen=True, kw_only=True)
class Published(Method):
    """Descriptions from a CSV file with one row per unit; other columns are copied unchanged.

    Args:
        path: the CSV file.
        layers: layers to take, in this order; None for all.
        layer_column: column of layers; None if absent: then `layers` names the only layer.
        unit_column: column of unit numbers.
        description_column: column of labels.
        similarity_column: column of the method's score; None if absent.
        first_unit: number of the file's first unit, 0 or 1; the result counts from 0.
        strip: label suffixes to remove (the first match), such as Network Dissection's `-s`.
        sort: by layer and unit, instead of the file's order.
    """

    path: str
    layers: list[str] | None = None
    layer_column: str | None = "layer"
    unit_column: str = "unit"
    description_column: str = "description"
    similarity_column: str | None = None
    first_unit: int = 0
    strip: list[str] | None = None
    sort: bool = True
    name: ClassVar[str] = "published"

    def __post_init__(self) -> None:
        if self.first_unit not in (0, 1):
            raise DissectError(f"method.first_unit is {self.first_unit}; it can be 0 or 1")
        if self.layer_column is None and len(self.layers or ()) != 1:
            raise DissectError(
                "a file without a column of layers has one layer: name it (method.layers=[fc])"
            )

    def describe(self, job: Job) -> ResultTables:
        file = Path(self.path).expanduser()
        table = self._convert(read_cells(file), file)
        options = {"name": self.name, **asdict(self)}
        return labels_result(table, file, options, self.layers, self.sort, self.first_unit)

    def _convert(self, table: pd.DataFrame, file: Path) -> pd.DataFrame:
        names = {
            "layer": self.layer_column,
            "unit": self.unit_column,
            "description": self.description_column,
            "similarity": self.similarity_column,
        }
        for name, column in names.items():
            if column is not None and column not in table:
                raise unknown(f"column (method.{name}_column) of {file}", column, map(str, table))
        out = pd.DataFrame(index=table.index)
        out["layer"] = table[self.layer_column] if self.layer_column else (self.layers or [""])[0]
        out["unit"] = units_of(table[self.unit_column], file) - self.first_unit
        labels = table[self.description_column]
        out["description"] = [_without_suffix(label, self.strip or ()) for label in labels]
        score = self.similarity_column
        out["similarity"] = np.nan if score is None else numbers(table[score], file)
        rest = table[[c for c in table if c not in names.values() and c not in out]]
        scores = {c: numbers(rest[c], file) for c in rest if _SCORES.fullmatch(str(c))}
        joined: pd.DataFrame = pd.concat([out, rest.assign(**scores)], axis=1)
        return flags.with_column(joined)


def labels_result(
    table: pd.DataFrame,
    file: Path,
    method: dict[str, Any],
    layers: Sequence[str] | None,
    sort: bool = True,
    first_unit: int = 0,
) -> ResultTables:
    """Return labels `layer, unit, description, ...` read from a file as a result.

    Args:
        method: name and parameters, for the manifest.
        layers, sort, first_unit: see `Published`.
    """
    selected = _select_layers(table, layers, file, sort)
    _check_units(selected, file, first_unit)
    run = {
        **environment(),
        "method": method,
        "digests": {"labels": hashing.hash_file(file)},
        "notes": [],
        "seconds": {},
        "computed": [],
    }
    no_images = pd.DataFrame(columns=["layer", "unit", "rank", "image", "activation"])
    return ResultTables(selected, no_images, run)


def _select_layers(
    table: pd.DataFrame, layers: Sequence[str] | None, file: Path, sort: bool
) -> pd.DataFrame:
    present = list(dict.fromkeys(table["layer"]))
    parts = []
    for layer in layers or present:
        if layer not in present:
            raise unknown(f"layer (method.layers) of {file}", layer, present)
        rows = table[table["layer"] == layer]
        parts.append(rows.sort_values("unit", kind="stable") if sort else rows)
    selected: pd.DataFrame = pd.concat(parts, ignore_index=True)
    return selected


def read_cells(file: Path) -> pd.DataFrame:
    """Read a CSV file's cells as strings: "nan" and "null" are labels."""
    if not file.is_file():
        raise MissingResource(
            "the file of labels", [str(file.absolute())], "set method.path to a CSV file"
        )
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, pd.errors.ParserError) as error:  # ValueError: also text that isn't UTF-8
        raise DissectError(f"{file} is not a CSV file in UTF-8: {error}") from error
    if not len(table):
        raise DissectError(f"{file} has no rows")
    return table


def units_of(column: pd.Series[Any], file: Path) -> pd.Series[Any]:
    """Convert cells to whole numbers."""
    values = numbers(column, file)
    _refuse(values % 1 != 0, column, file, "a unit's number")  # NaN is among them
    return values.astype(int)


def numbers(column: pd.Series[Any], file: Path) -> pd.Series[Any]:
    """Convert cells to floats, empty ones to NaN."""
    values = pd.to_numeric(column, errors="coerce").astype(float)
    _refuse(values.isna() & ~column.str.lower().isin(["", "nan"]), column, file, "a number")
    return values


def _refuse(wrong: pd.Series[bool], column: pd.Series[Any], file: Path, expected: str) -> None:
    rows = wrong.to_numpy().nonzero()[0]
    if len(rows):
        raise DissectError(
            f"{file}, row {rows[0] + 1}: {column.name} is '{column.iloc[rows[0]]}', not {expected}"
        )


def _without_suffix(label: str, suffixes: Sequence[str]) -> str:
    return label.removesuffix(next((s for s in suffixes if s and label.endswith(s)), ""))


def _check_units(table: pd.DataFrame, file: Path, first: int) -> None:
    smallest = int(table["unit"].min())
    if smallest < 0:
        raise DissectError(
            f"{file} has a unit {smallest + first}, but units count from {first} "
            f"(method.first_unit)"
        )
    repeated = table[table.duplicated(["layer", "unit"])]
    if len(repeated):
        layer, unit = repeated.iloc[0][["layer", "unit"]]
        raise DissectError(f"{file} has layer {layer}, unit {unit + first} more than once")
