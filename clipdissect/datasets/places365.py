"""Places365's classes, and which of them Broden labels as scenes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from clipdissect.errors import DissectError
from clipdissect.utils.paths import data_candidates, find_data
from clipdissect.utils.type_checks import check_choice

# Paths of the file of categories below a data folder; the first is its original name.
CATEGORIES = (
    "places365/categories_places365.txt",
    "categories_places365.txt",
    "concepts/places365_categories.txt",
)
MATCHINGS = ("normalised", "released")
_LINE = re.compile(r"(?:/\w/)?(?P<name>\S+)\s+(?P<number>\d+)")


def places365_names(path: str | None = None) -> tuple[str, ...]:
    """Return the 365 class names in class order, such as `apartment_building/outdoor`.

    `path` has lines like `/a/airfield 0`; by default it is searched in the data folders.
    """
    what, remedy = "the Places365 class names", "download categories_places365.txt and set its path"
    file = find_data(what, data_candidates(path, *CATEGORIES), remedy)
    text = "" if file.is_dir() else file.read_text(encoding="utf-8-sig")
    lines = [line for line in text.splitlines() if line.strip()]
    matches = [_LINE.fullmatch(line.strip()) for line in lines]
    numbers = [int(match["number"]) for match in matches if match]
    if None in matches or numbers != list(range(365)):
        raise DissectError(
            f"{file} isn't Places365's list of categories: it must have 365 lines such as "
            f"'/a/airfield 0', numbered from 0"
        )
    return tuple(match["name"] for match in matches if match)


def scene_labels(broden: str | Path) -> tuple[str, ...]:
    """Return the scene labels (`abbey-s`) of an unpacked Broden release, in its order."""
    root = Path(broden).expanduser()
    files = [root / "c_scene.csv", root / "label.csv"]
    file = find_data("Broden's scene labels", files, "give the folder of the unpacked release")
    table = pd.read_csv(file, keep_default_na=False, dtype=str)
    needed = {"name"} if file.name == "c_scene.csv" else {"name", "category"}
    if needed - set(table):
        raise DissectError(f"{file} needs the columns {', '.join(sorted(needed))}")
    if "category" in needed:
        # A label of several categories lists them: `object(120);scene(7)`.
        table = table[table["category"].str.contains(r"\bscene\b")]
    return tuple(table["name"])


def match_key(name: str, matching: str = "normalised") -> str:
    """Return a key that is equal for names of the same scene, in Places365 or Broden.

    `released` only removes Broden's `-s`; `normalised` also ignores case and the difference
    between `_`, `-`, `/` and blanks.
    """
    check_choice("matching", matching, MATCHINGS)
    stem = name.strip().removesuffix("-s")
    return stem if matching == "released" else re.sub(r"[\s_/-]+", " ", stem).strip().lower()


def places_to_broden(
    names: Sequence[str], labels: Iterable[str], matching: str = "normalised"
) -> dict[int, str]:
    """Map the class numbers that Broden labels to its labels (267 in the paper's Table 2)."""
    by_key: dict[str, str] = {}
    for label in labels:
        by_key.setdefault(match_key(label, matching), label)
    keys = [match_key(name, matching) for name in names]
    return {i: by_key[key] for i, key in enumerate(keys) if key in by_key}
