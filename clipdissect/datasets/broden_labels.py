"""Names of Broden's labels."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from clipdissect.errors import DissectError


def label_names(root: Path) -> dict[str, str]:
    """Number to name of the release's labels, in words: see `words`.

    Raises:
        DissectError: `label.csv` lacks its columns.
    """
    table = pd.read_csv(root / "label.csv", dtype=str, keep_default_na=False)
    if not {"number", "name"} <= set(table):
        raise DissectError(f"{root / 'label.csv'} must have the columns number and name")
    return {n: words(name) for n, name in zip(table["number"], table["name"], strict=True)}


def words(name: str) -> str:
    """A label as the published concept list has it: spaces, and no `-s`, which marks scenes.

    `apartment_building-outdoor-s` is `apartment building-outdoor`; colours keep their `-c`.
    """
    return name.removesuffix("-s").replace("_", " ")
