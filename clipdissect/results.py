"""The files of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect import flags
from clipdissect.files import write_text

# The fewest digits that tell any two float32 numbers apart.
FLOAT = "%.9g"


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
    """Write JSON, atomically.

    Raises:
        ValueError: a NaN or infinity, which JSON doesn't know: write None and a reason.
    """
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
