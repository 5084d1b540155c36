"""The tracker `csv`."""

from __future__ import annotations

import csv as csv_module
import io
from typing import Any

from filelock import FileLock

from clipdissect.tracking.base import Finished, Tracker
from clipdissect.utils.files import write_text

TABLE = "runs.csv"


def csv() -> Tracker:
    """Add a row to `runs.csv` next to the run's folder; safe for simultaneous runs (file lock)."""
    return _add_row


def _add_row(run: Finished) -> None:
    path = run.folder.parent / TABLE
    row = {"run": str(run.folder), "overrides": " ".join(run.overrides), **run.values}
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{TABLE}.lock")):
        rows: list[dict[str, Any]] = []
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as source:
                rows = list(csv_module.DictReader(source))
        rows.append(row)
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv_module.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())
