"""Broden, the densely labelled image set of Network Dissection (Bau et al., CVPR 2017)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pandas as pd

from clipdissect.datasets.broden_labels import label_names
from clipdissect.errors import DissectError
from clipdissect.probe.base import Probe
from clipdissect.probe.broden_masks import masks_of
from clipdissect.probe.folder import of_files
from clipdissect.probe.options import ProbeOptions, not_empty
from clipdissect.utils.paths import BRODEN, data_candidates, find_data

# Categories that label an image as a whole.
IMAGE_CATEGORIES = ("scene", "texture")


def broden(
    root: str | None = None,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    identity: str = "stat",
    decode: str = "pil",
    on_error: str = "skip",
) -> Probe:
    """Use the images in the release's `index.csv`, labelled by scene, else texture, and masks.

    Args:
        root: the unpacked release; default: `broden1_224` in the data folders.
        limit, sample, seed, identity, decode, on_error: see `ProbeOptions`.
    """
    not_empty(root=root)
    folder = find_data(
        "the Broden images (index.csv and images/ of the 224-pixel release)",
        data_candidates(root, BRODEN),
        "clipdissect fetch broden, or set probe.root to the unpacked release, or choose another "
        "probe (probe=folder)",
        "index.csv",
    )
    options = ProbeOptions(limit, sample, seed, identity, decode, on_error)
    return read_broden("broden", folder, options)


def read_broden(name: str, root: Path, options: ProbeOptions) -> Probe:
    """Return a probe of the images and masks of a folder in the release's layout."""
    index = root / "index.csv"
    table = pd.read_csv(index, dtype=str)
    if "image" not in table:
        raise DissectError(f"{index} has no column 'image'; it has {', '.join(table.columns)}")
    images = root / "images"
    files = [images / image for image in dict.fromkeys(table["image"].dropna())]
    absent = [file for file in files if not file.is_file() or not _is_below(file, images)]
    if absent:
        raise DissectError(
            f"{index} lists {len(absent)} images that aren't below {images}, "
            f"such as {absent[0].name}"
        )
    probe = of_files(name, images, files, options, _image_labels(table, root).get)
    return replace(probe, masks=masks_of(root, table, probe.images, options.identity))


def _is_below(file: Path, folder: Path) -> bool:
    return Path(os.path.normpath(file)).is_relative_to(os.path.normpath(folder))


def _image_labels(table: pd.DataFrame, root: Path) -> dict[str, str]:
    """Map each image to its first label: of the scene, else of the texture."""
    categories = [category for category in IMAGE_CATEGORIES if category in table]
    if not categories or not (root / "label.csv").is_file():
        return {}
    names = label_names(root)
    numbers = {}
    for image, *cells in zip(table["image"], *(table[c] for c in categories), strict=True):
        texts = [cell for cell in cells if isinstance(cell, str) and cell.strip()]
        numbers[image] = texts[0].split(";")[0].strip() if texts else ""
    return {image: names[number] for image, number in numbers.items() if number in names}
