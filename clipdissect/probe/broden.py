"""Broden, the densely labelled image set of Network Dissection."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect.datasets.broden_labels import label_names
from clipdissect.errors import DissectError, MissingResource
from clipdissect.probe.base import Probe
from clipdissect.probe.broden_masks import masks_of
from clipdissect.probe.folder import of_files
from clipdissect.probe.options import ProbeOptions, not_empty
from clipdissect.utils.files import check_listable
from clipdissect.utils.paths import BRODEN, data_places

# Categories that label an image as a whole: of scenes, of textures.
WHOLE = ("scene", "texture")


def broden(
    root: str | None = None,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    identity: str = "stat",
    decode: str = "pil",
    on_error: str = "skip",
) -> Probe:
    """The images that the release's `index.csv` lists, below its `images/`, with their masks.

    Images that are labelled as a whole know their label: the scene, else the texture. The masks of
    pixels are read when a method asks for them; an index without their sizes (`sh`, `sw`) has none.

    Args:
        root: the unpacked release; by default `broden1_224` below `$CLIPDISSECT_DATA` or the user
            cache's `data` folder.
        limit, sample, seed, identity, decode, on_error: see `ProbeOptions`.

    Raises:
        MissingResource: the folder isn't there, or has no `index.csv`.
        DissectError: the index lists files that aren't there, or has no `image` column; a value
            that isn't allowed.

    Source:
        Bau et al., "Network Dissection", CVPR 2017.
    """
    not_empty(root=root)
    return read("broden", find(root), ProbeOptions(limit, sample, seed, identity, decode, on_error))


def read(name: str, root: Path, choices: ProbeOptions) -> Probe:
    """The images and masks of a folder in the release's layout.

    Args:
        name: what to call the probe.
        root: the folder with `index.csv`.
        choices: which images, and how to read them.

    Raises:
        DissectError: as `broden`.
    """
    index = root / "index.csv"
    table = pd.read_csv(index, dtype=str)
    if "image" not in table:
        raise DissectError(f"{index} has no column 'image'; it has {', '.join(table.columns)}")
    images = root / "images"
    files = [images / name for name in dict.fromkeys(table["image"].dropna())]
    absent = [f for f in files if not f.is_file() or not _is_below(f, images)]
    if absent:
        raise DissectError(
            f"{index} lists {len(absent)} images that aren't below {images}, "
            f"such as {absent[0].name}"
        )
    found = of_files(name, images, files, choices, _labels(table, root).get)
    return replace(found, masks=masks_of(root, table, found.images, choices.identity))


def _is_below(file: Path, folder: Path) -> bool:
    """Whether the path, by its words alone, stays in the folder: the user's links may leave it."""
    return Path(os.path.normpath(file)).is_relative_to(os.path.normpath(folder))


def find(root: str | None = None) -> Path:
    """The folder of the release: `root`, or where it is looked for.

    Raises:
        MissingResource: none of them has an `index.csv`.
        DissectError: one can't be listed.
    """
    places = [Path(root).expanduser()] if root else [p / BRODEN for p in data_places()]
    for place in places:
        check_listable(place)
        if (place / "index.csv").is_file():
            return place
    raise MissingResource(
        "the Broden images (index.csv and images/ of the 224-pixel release)",
        [str((place / "index.csv").absolute()) for place in places],
        "clipdissect fetch broden, or set probe.root to the unpacked release, or choose another "
        "probe (probe=folder)",
    )


def _labels(table: Any, root: Path) -> dict[str, str]:
    """Image to its label as a whole."""
    whole = [category for category in WHOLE if category in table]
    if not whole or not (root / "label.csv").is_file():
        return {}
    names = label_names(root)
    rows = zip(table["image"], *(table[category] for category in whole), strict=True)
    numbers = {image: next(_numbers(values), None) for image, *values in rows}
    return {image: names[n] for image, n in numbers.items() if n in names}


def _numbers(values: list[Any]) -> Iterator[str]:
    """The cells' label numbers: one or more, split by semicolons; the first of each."""
    for value in values:
        if isinstance(value, str) and value.strip():
            yield value.split(";")[0].strip()
