"""The files of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipdissect.results import flags
from clipdissect.utils.files import write_text

# The fewest digits that tell any two float32 numbers apart.
FLOAT = "%.9g"
UNDEFINED = {"nan": "undefined (NaN): there is no value to compute it from, or it is 0 / 0",
             "inf": "not finite: a division by 0, or an overflow",
             "-inf": "not finite: a division by 0, or an overflow"}  # fmt: skip


def write_result(
    folder: Path, descriptions: pd.DataFrame, top_images: pd.DataFrame, run: dict[str, Any]
) -> Path:
    """Write the tables, then `run.json`, which marks the folder as complete; returns the folder."""
    begin(folder)
    write_tables(folder, descriptions, top_images)
    write_json(folder / "run.json", run)
    return folder


def write_tables(folder: Path, descriptions: pd.DataFrame, top_images: pd.DataFrame) -> None:
    """Write `descriptions.csv` and `top_images.csv`, which a report can be made of already."""
    write_table(folder / "descriptions.csv", descriptions)
    write_table(folder / "top_images.csv", top_images)


def begin(folder: Path) -> None:
    """Take the mark of completeness from a folder that is about to be written again."""
    (folder / "run.json").unlink(missing_ok=True)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, UTF-8, floats with nine digits, flags in one cell, atomically."""
    if flags.COLUMN in table:
        table = table.assign(flags=table[flags.COLUMN].map(flags.written))
    text = table.to_csv(index=False, float_format=FLOAT, lineterminator="\n")
    write_text(path, text)


def write_json(path: Path, values: Any) -> None:
    """Write JSON, atomically; an undefined number is null, with the reason: see `jsonable`."""
    text = json.dumps(jsonable(values), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def jsonable(values: Any, reasons: bool = True) -> Any:
    """Return a JSON-able copy: NumPy's numbers and arrays as Python's, undefined numbers as None.

    Args:
        values: nested mappings, sequences, texts and numbers.
        reasons: give a key whose value is NaN or infinite, or a list with such numbers, a
            `<key>_reason` beside it, unless it has one.
    """
    if isinstance(values, Mapping):
        found = {key: jsonable(value, reasons) for key, value in values.items()}
        whys = {f"{k}_reason": why for k, v in values.items() if reasons and (why := _undefined(v))}
        return found | {key: found.get(key) or why for key, why in whys.items()}
    if isinstance(values, np.ndarray | np.generic):
        return jsonable(values.tolist(), reasons)
    if isinstance(values, list | tuple):
        return [jsonable(value, reasons) for value in values]
    return None if _undefined(values) else values


def _undefined(value: Any) -> str | None:
    """Why a number, or one in a list of numbers, is undefined; None where it is defined."""
    return next((UNDEFINED[repr(n)] for n in _numbers(value) if not math.isfinite(n)), None)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float | np.floating):
        yield float(value)
    elif isinstance(value, list | tuple | np.ndarray):
        for one in value:
            yield from _numbers(one)
