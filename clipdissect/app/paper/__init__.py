"""The paper's numbers, and how ours are matched and compared with them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "paper_values.json"


@cache
def values() -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return numbers


def row(table: str, **wanted: Any) -> dict[str, Any]:
    """Return the only row with these values, else raise: `row("table1", method="milan_base")`."""
    rows: list[dict[str, Any]] = values()[table]["rows"]
    fitting = [r for r in rows if wanted.items() <= r.items()]
    if len(fitting) != 1:
        raise LookupError(f"{len(fitting)} rows of {table} have {wanted}")
    return fitting[0]
