"""The files of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from clipdissect.results import flags
from clipdissect.results.vectors import FILE, UnitVectors
from clipdissect.utils.files import write_text
from clipdissect.utils.memo import Memo

# The fewest digits that distinguish any two float32 numbers.
FLOAT = "%.9g"
_INFINITE = "not finite: a division by 0, or an overflow"
UNDEFINED = {
    "nan": "undefined (NaN): there is no value to compute it from, or it is 0 / 0",
    "inf": _INFINITE,
    "-inf": _INFINITE,
}

_top_images: Memo[str] = Memo(2)  # CSV by contents


def write_result(
    folder: Path,
    descriptions: pd.DataFrame,
    top_images: pd.DataFrame,
    run: dict[str, Any],
    units: pd.DataFrame | None = None,
    meanings: pd.DataFrame | None = None,
    vectors: UnitVectors | None = None,
) -> Path:
    """Write the tables, then `run.json`, which marks the folder as complete."""
    begin(folder)
    write_tables(folder, descriptions, top_images, units, meanings, vectors)
    write_json(folder / "run.json", run)
    return folder


def write_tables(
    folder: Path,
    descriptions: pd.DataFrame,
    top_images: pd.DataFrame,
    units: pd.DataFrame | None = None,
    meanings: pd.DataFrame | None = None,
    vectors: UnitVectors | None = None,
) -> None:
    """Write `descriptions.csv` and `top_images.csv`, and the others' files, if there are any."""
    write_table(folder / "descriptions.csv", descriptions)
    # A multirun's jobs often have the same top images.
    text = _top_images.get(contents(top_images), lambda: _csv(top_images))
    write_text(folder / "top_images.csv", text)
    for name, table in (("units.csv", units), ("meanings.csv", meanings)):
        if table is None or table.empty:
            (folder / name).unlink(missing_ok=True)  # of an earlier run
        else:
            write_table(folder / name, table)
    if vectors is None:
        (folder / FILE).unlink(missing_ok=True)
    else:
        vectors.write(folder / FILE)


def contents(table: pd.DataFrame) -> tuple[Any, ...]:
    """Return a hashable copy of a table's values, with digests of its texts."""
    columns = {str(name): table[name].to_numpy() for name in table}
    return tuple(
        (name, v.dtype.str, v.tobytes() if v.dtype.kind in "biuf" else _hash(v))
        for name, v in columns.items()
    )


def _hash(texts: Shaped[np.ndarray, " rows"]) -> bytes:
    # An encoding that takes the parts of file names that aren't valid text, too.
    return pd.util.hash_array(texts, encoding="unicode_escape").tobytes()


def begin(folder: Path) -> None:
    """Delete `run.json`, to mark a folder as incomplete before it is rewritten."""
    (folder / "run.json").unlink(missing_ok=True)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically as UTF-8 CSV: floats with nine digits, flags in one cell."""
    write_text(path, _csv(table))


def _csv(table: pd.DataFrame) -> str:
    if flags.COLUMN in table:
        table = table.assign(**{flags.COLUMN: table[flags.COLUMN].map(flags.written)})
    return str(table.to_csv(index=False, float_format=FLOAT, lineterminator="\n"))


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically; undefined numbers become null with a reason, see `jsonable`."""
    text = json.dumps(jsonable(values), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def jsonable(values: Any, reasons: bool = True) -> Any:
    """Return a JSON-able copy: NumPy values as Python's, undefined numbers as None.

    With `reasons`, a key whose value is or contains NaN or an infinity gets `<key>_reason`,
    unless it exists.
    """
    if isinstance(values, Mapping):
        result = {key: jsonable(value, reasons) for key, value in values.items()}
        for key, value in values.items() if reasons else ():
            if reason := _undefined(value):
                result[f"{key}_reason"] = result.get(f"{key}_reason") or reason
        return result
    if isinstance(values, np.ndarray | np.generic):
        return jsonable(values.tolist(), reasons)
    if isinstance(values, list | tuple):
        return [jsonable(value, reasons) for value in values]
    return None if _undefined(values) else values


def _undefined(value: Any) -> str | None:
    """Return why a number, or any in a list, is undefined; None if all are finite."""
    return next((UNDEFINED[repr(n)] for n in _numbers(value) if not math.isfinite(n)), None)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, float | np.floating):
        yield float(value)
    elif isinstance(value, list | tuple | np.ndarray):
        for item in value:
            yield from _numbers(item)
