"""Flags of units: names of what is special about a unit, any number of them each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

COLUMN = "flags"
SEPARATOR = ";"  # in one cell of a CSV file

DEAD = "dead"
FEW = "few_distinct"
TIED = "tied"
SATURATED = "saturated"
NOWHERE = "no_overlap"

Flags = tuple[str, ...]


def flags_of(given: Mapping[str, Bool[np.ndarray, " units"]]) -> list[Flags]:
    """The flags of every unit, in the given order; a dead unit has no other.

    Args:
        given: name of a flag to the units that have it.
    """
    names = list(given)
    rows = np.stack([np.asarray(given[name], dtype=bool) for name in names], 1)
    found = [tuple(name for name, own in zip(names, row, strict=True) if own) for row in rows]
    return [(DEAD,) if DEAD in own else own for own in found]


def has_flag(rows: pd.DataFrame, flag: str) -> Bool[np.ndarray, " units"]:
    """Which units have a flag; none where the table has no flags.

    Args:
        rows: descriptions, as a method gives or a file holds them.
        flag: such as `dead`.
    """
    if COLUMN not in rows:
        return np.zeros(len(rows), dtype=bool)
    return np.array([flag in read(cell) for cell in rows[COLUMN]], dtype=bool)


def read(cell: Any) -> Flags:
    """Flags from a cell of a table: a list, or the text of a CSV file."""
    if isinstance(cell, str):
        return tuple(filter(None, cell.split(SEPARATOR)))
    return tuple(cell) if isinstance(cell, (tuple, list)) else ()


def written(cell: Any) -> str:
    """The text of a cell of flags, as CSV files and pages show it."""
    return SEPARATOR.join(read(cell))
