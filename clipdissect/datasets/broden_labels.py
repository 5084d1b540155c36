"""Names of Broden's labels."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from clipdissect.errors import DissectError


def label_names(root: Path) -> dict[str, str]:
    """Map the release's label numbers to names in words; see `words`."""
    table = pd.read_csv(root / "label.csv", dtype=str, keep_default_na=False)
    if not {"number", "name"} <= set(table):
        raise DissectError(f"{root / 'label.csv'} must have the columns number and name")
    return {n: words(name) for n, name in zip(table["number"], table["name"], strict=True)}


def words(name: str) -> str:
    """Return a label in words: `apartment_building-outdoor-s` is `apartment building-outdoor`."""
    return name.removesuffix("-s").replace("_", " ")
