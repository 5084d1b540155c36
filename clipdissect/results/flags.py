"""Flags: special conditions of units, such as `dead`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

COLUMN = "unit_flags"  # `flags` is an attribute of every DataFrame
OLD_COLUMN = "flags"  # of files written before
SEPARATOR = ";"  # in one cell of a CSV file

DEAD = "dead"
RARE = "rare"
FEW = "few_distinct"
TIED = "tied"
SATURATED = "saturated"
NOWHERE = "no_overlap"

Flags = tuple[str, ...]


def flags_of(masks: Mapping[str, Bool[np.ndarray, " units"]]) -> list[Flags]:
    """Return each unit's flags from masks per flag; a dead unit has no other flag."""
    rows = np.stack([np.asarray(mask, dtype=bool) for mask in masks.values()], 1)
    flags = [tuple(name for name, is_set in zip(masks, row, strict=True) if is_set) for row in rows]
    return [(DEAD,) if DEAD in names else names for names in flags]


def with_column(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table read from a file, old or new, with its flags parsed if it has any."""
    table = table.rename(columns={OLD_COLUMN: COLUMN})
    return table.assign(**{COLUMN: table[COLUMN].map(read)}) if COLUMN in table else table


def has_flag(rows: pd.DataFrame, flag: str) -> Bool[np.ndarray, " units"]:
    """Return which rows of a table have a flag; none if the table has no flags."""
    cells = rows.get(COLUMN, rows.get(OLD_COLUMN, [()] * len(rows)))
    return np.array([flag in read(cell) for cell in cells], dtype=bool)


def read(cell: Any) -> Flags:
    """Parse a cell of flags: a sequence, or a CSV string."""
    if isinstance(cell, str):
        return tuple(filter(None, cell.split(SEPARATOR)))
    return tuple(cell) if isinstance(cell, (tuple, list)) else ()


def written(cell: Any) -> str:
    return SEPARATOR.join(read(cell))
