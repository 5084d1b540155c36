"""Labels read from a file: published ones, or those of an earlier run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from clipdissect.errors import DissectError, MissingResource, unknown
from clipdissect.method.base import Job, Method
from clipdissect.results import flags
from clipdissect.results.provenance import versions
from clipdissect.results.result import Result
from clipdissect.utils import hashing

_SCORES = re.compile(r"similarity_\d+|margin|truth_rank|null_similarity")


@dataclass(frozen=True, kw_only=True)
class Published(Method):
    """Descriptions from a CSV file with one row a unit; needs no network and no image.

    Columns that aren't named here are passed on as they are.

    Args:
        path: the file.
        layers: layers to take, in this order; all where it is None.
        layer_column: the column of layers; None where the file has none: then `layers` names the
            one layer that it is of.
        unit_column: the column of unit numbers.
        description_column: the column of labels.
        similarity_column: the column of the method's own score; None where there is none.
        first_unit: the number of the first unit in the file, 0 or 1; ours count from 0.
        strip: endings to take off the labels, such as Network Dissection's `-s` and `-c`; of each
            label the first that fits.
        sort: rows by layer and unit; otherwise in the file's order.

    Raises:
        DissectError: a value that isn't allowed.
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
        """Check what doesn't depend on the file."""
        if self.first_unit not in (0, 1):
            raise DissectError(f"method.first_unit is {self.first_unit}; it can be 0 or 1")
        if self.layer_column is None and len(self.layers or ()) != 1:
            raise DissectError(
                "a file without a column of layers is of one layer: name it (method.layers=[fc])"
            )

    def describe(self, job: Job) -> Result:
        """The file's rows in our columns.

        Raises:
            MissingResource: there is no such file.
            DissectError: it isn't a table, lacks a column or layer, or a unit is wrong or repeated.
        """
        file = Path(self.path).expanduser()
        table = self._columns(_read(file), file)
        table = self._chosen(table, file)
        _check_units(table, file, self.first_unit)
        run = {
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "versions": versions(),
            "method": {"name": self.name, **asdict(self)},
            "digests": {"labels": hashing.hash_file(file)},
            "notes": [], "seconds": {}, "computed": [],
        }  # fmt: skip
        none = pd.DataFrame(columns=["layer", "unit", "rank", "image", "activation"])
        return Result(table, none, run)

    def _columns(self, table: pd.DataFrame, file: Path) -> pd.DataFrame:
        """The four columns under our names and types, then the others."""
        names = {
            "layer": self.layer_column, "unit": self.unit_column,
            "description": self.description_column, "similarity": self.similarity_column,
        }  # fmt: skip
        for ours, theirs in names.items():
            if theirs is not None and theirs not in table:
                raise unknown(f"column (method.{ours}_column) of {file}", theirs, map(str, table))
        out = pd.DataFrame(index=table.index)
        out["layer"] = table[self.layer_column] if self.layer_column else (self.layers or [""])[0]
        out["unit"] = _whole(table[self.unit_column], file) - self.first_unit
        out["description"] = [_without(t, self.strip or ()) for t in table[self.description_column]]
        score = self.similarity_column
        out["similarity"] = np.nan if score is None else _numbers(table[score], file)
        rest = table[[c for c in table if c not in names.values() and c not in out]]
        scores = {c: _numbers(rest[c], file) for c in rest if _SCORES.fullmatch(str(c))}
        joined: pd.DataFrame = pd.concat([out, rest.assign(**scores)], axis=1)
        if flags.COLUMN in joined:
            joined[flags.COLUMN] = joined[flags.COLUMN].map(flags.read)
        return joined

    def _chosen(self, table: pd.DataFrame, file: Path) -> pd.DataFrame:
        """The wanted layers, sorted if asked."""
        present = list(dict.fromkeys(table["layer"]))
        wanted = list(self.layers or present)
        for layer in wanted:
            if layer not in present:
                raise unknown(f"layer (method.layers) of {file}", layer, present)
        parts = [table[table["layer"] == layer] for layer in wanted]
        if self.sort:
            parts = [part.sort_values("unit", kind="stable") for part in parts]
        chosen: pd.DataFrame = pd.concat(parts, ignore_index=True)
        return chosen


def _read(file: Path) -> pd.DataFrame:
    """A CSV file's cells as texts: "nan" and "null" are labels."""
    if not file.is_file():
        raise MissingResource(
            "the file of labels", [str(file.absolute())], "set method.path to a CSV file"
        )
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, pd.errors.ParserError) as error:  # also what isn't UTF-8
        raise DissectError(f"{file} is not a CSV file in UTF-8: {error}") from error
    if not len(table):
        raise DissectError(f"{file} has no rows")
    return table


def _whole(column: pd.Series[Any], file: Path) -> pd.Series[Any]:
    numbers = _numbers(column, file)
    wrong = (numbers % 1 != 0).to_numpy().nonzero()[0]  # NaN is among them
    if len(wrong):
        raise DissectError(
            f"{file}, row {wrong[0] + 1}: {column.name} is '{column.iloc[wrong[0]]}', not a unit's "
            f"number"
        )
    return numbers.astype(int)


def _numbers(column: pd.Series[Any], file: Path) -> pd.Series[Any]:
    """Cells as floats; NaN where one is empty."""
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    wrong = (numbers.isna() & ~column.str.lower().isin(["", "nan"])).to_numpy().nonzero()[0]
    if len(wrong):
        raise DissectError(
            f"{file}, row {wrong[0] + 1}: {column.name} is '{column.iloc[wrong[0]]}', not a number"
        )
    return numbers


def _without(label: str, endings: Sequence[str]) -> str:
    """The label without the first of the endings that it has."""
    found = next((e for e in endings if e and label.endswith(e)), "")
    return label.removesuffix(found)


def _check_units(table: pd.DataFrame, file: Path, first: int) -> None:
    least = int(table["unit"].min())
    if least < 0:
        raise DissectError(
            f"{file} has a unit {least + first}, but units count from {first} (method.first_unit)"
        )
    twice = table[table.duplicated(["layer", "unit"])]
    if len(twice):
        layer, unit = twice.iloc[0][["layer", "unit"]]
        raise DissectError(f"{file} has layer {layer}, unit {unit + first} more than once")
