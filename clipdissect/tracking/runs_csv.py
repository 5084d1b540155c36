"""The tracker `csv`."""

from __future__ import annotations

import csv as csv_module
import io
from pathlib import Path
from typing import Any

from filelock import FileLock

from clipdissect.tracking.base import Finished, Tracker
from clipdissect.utils.files import write_text

TABLE = "runs.csv"


def csv() -> Tracker:
    """Add a row to `runs.csv` beside the run's folder: folder, overrides, metrics and seconds.

    Safe for runs that end at the same moment, on one machine or on a disk whose locks work.
    """
    return _add_row


def _add_row(run: Finished) -> None:
    path = run.folder.parent / TABLE
    row = {"run": str(run.folder), "overrides": " ".join(run.overrides), **run.values}
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{TABLE}.lock")):
        rows = [*_rows(path), row]
        write_text(path, _text(rows))


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as source:
        return list(csv_module.DictReader(source))


def _text(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv_module.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
