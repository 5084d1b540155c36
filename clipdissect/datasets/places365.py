"""Places365's classes, and which of them Broden labels as scenes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from clipdissect.errors import DissectError, MissingResource
from clipdissect.utils.paths import data_places

# Where the file of categories may lie below a data place; the first is its original name.
CATEGORIES = (
    "places365/categories_places365.txt",
    "categories_places365.txt",
    "concepts/places365_categories.txt",
)
MATCHINGS = ("normalised", "released")
_LINE = re.compile(r"(?:/\w/)?(?P<name>\S+)\s+(?P<number>\d+)")


def find(below: Sequence[str], what: str, remedy: str) -> Path:
    """A file below one of the data places.

    Args:
        below: its possible paths there, the likeliest first.
        what: what it is, for the error.
        remedy: what to do where it isn't there, for the error.

    Raises:
        MissingResource: it is in none of the places.
    """
    places = [place / name for place in data_places() for name in below]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise MissingResource(what, [str(place.absolute()) for place in places], remedy)
    return found


def places365_names(path: str | None = None) -> tuple[str, ...]:
    """Names of the 365 classes in class order, such as `apartment_building/outdoor`.

    Args:
        path: a file with lines like `/a/airfield 0`; by default found in the data places.

    Raises:
        MissingResource: no such file.
        DissectError: lines of another shape, or numbers that aren't 0 to 364 in order.
    """
    what, remedy = "the Places365 class names", "get categories_places365.txt and give its path"
    file = Path(path).expanduser() if path else find(CATEGORIES, what, remedy)
    if not file.is_file():
        raise MissingResource(what, [str(file.absolute())], remedy)
    lines = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    found = [_LINE.fullmatch(line.strip()) for line in lines]
    numbers = [int(match["number"]) for match in found if match]
    if None in found or numbers != list(range(365)):
        raise DissectError(
            f"{file} isn't Places365's list of categories: it must have 365 lines such as "
            f"'/a/airfield 0', numbered from 0"
        )
    return tuple(match["name"] for match in found if match)


def scene_labels(broden: str | Path) -> tuple[str, ...]:
    """Broden's scene labels (`abbey-s`), in its order, from `c_scene.csv`, else `label.csv`.

    Args:
        broden: the unpacked release, such as `broden1_224`.

    Raises:
        MissingResource: the folder has neither file.
        DissectError: a file without the column of names.
    """
    root = Path(broden).expanduser()
    files = [root / "c_scene.csv", root / "label.csv"]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        raise MissingResource(
            "Broden's scene labels",
            [str(f.absolute()) for f in files],
            "give the folder of the unpacked release",
        )
    table = pd.read_csv(file, keep_default_na=False, dtype=str)
    needed = {"name"} if file.name == "c_scene.csv" else {"name", "category"}
    if needed - set(table):
        raise DissectError(f"{file} needs the columns {', '.join(sorted(needed))}")
    if "category" in needed:
        # A label of several categories lists them: `object(120);scene(7)`.
        table = table[table["category"].str.contains(r"\bscene\b")]
    return tuple(table["name"])


def match_key(name: str, matching: str = "normalised") -> str:
    """What two names must have in common to count as the same scene.

    Args:
        name: a class of Places365 or a label of Broden.
        matching: `released` takes the `-s` off that Broden's scenes end in, and compares the rest
            exactly, so that `apartment_building-outdoor` isn't `apartment_building/outdoor`;
            `normalised` also takes `_`, `-`, `/` and blanks as one, and capitals as small.

    Raises:
        DissectError: an unknown matching.
    """
    if matching not in MATCHINGS:
        raise DissectError(f"matching is '{matching}'; it can be {' or '.join(MATCHINGS)}")
    stem = name.strip().removesuffix("-s")
    return stem if matching == "released" else re.sub(r"[\s_/-]+", " ", stem).strip().lower()


def places_to_broden(
    names: Sequence[str], labels: Iterable[str], matching: str = "normalised"
) -> dict[int, str]:
    """Class number to the Broden label of the same name, for the classes that have one.

    With the 365 classes and Broden's scenes these are the classes of the paper's Table 2 (267
    there).

    Args:
        names: of `places365_names`.
        labels: of `scene_labels`; of two with the same name the first counts.
        matching: see `match_key`.
    """
    by_key: dict[str, str] = {}
    for label in labels:
        by_key.setdefault(match_key(label, matching), label)
    keys = [match_key(name, matching) for name in names]
    return {i: by_key[key] for i, key in enumerate(keys) if key in by_key}
