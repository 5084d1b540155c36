"""The paper's numbers, from the one file that has them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "paper_values.json"


@cache
def values() -> dict[str, Any]:
    """All of them: table to its rows."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def row(table: str, **wanted: Any) -> dict[str, Any]:
    """The one row of a table with these values, such as `row("table1", method="milan_base")`.

    Raises:
        LookupError: there is none, or more than one.
    """
    rows: list[dict[str, Any]] = values()[table]["rows"]
    fitting = [r for r in rows if all(r.get(key) == value for key, value in wanted.items())]
    if len(fitting) != 1:
        raise LookupError(f"{len(fitting)} rows of {table} have {wanted}")
    return fitting[0]
