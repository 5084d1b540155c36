"""Broden, the densely labelled image set of Network Dissection (Bau et al., CVPR 2017)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from PIL import Image

from clipdissect.datasets.segmentation import (
    UNLABELLED,
    Annotation,
    Concept,
    SegmentationLabels,
    label_names,
    read_labels,
    words,
)
from clipdissect.errors import DissectError
from clipdissect.probe.base import Probe
from clipdissect.probe.folder import of_files
from clipdissect.probe.options import ProbeOptions, not_empty
from clipdissect.utils import hashing
from clipdissect.utils.paths import BRODEN, data_candidates, find_data

# Categories that label an image as a whole.
IMAGE_CATEGORIES = ("scene", "texture")
NOT_CATEGORIES = ("image", "split", "ih", "iw", "sh", "sw")
MAX_LABELS = 1 << 16  # a mask's red is the low byte of a label number, its green the high byte


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


@dataclass(frozen=True)
class IndexRow:
    """A row of the index: mask height and width, and per category label numbers and files."""

    size: tuple[int, int]
    cells: dict[str, tuple[str, ...]]


def masks_of(
    root: Path, table: pd.DataFrame, images: Sequence[str], identity: str
) -> SegmentationLabels | None:
    """Return the masks of the images in an `index.csv` read as text; None without masks."""
    if not {"sh", "sw"} <= set(table) or not (root / "label.csv").is_file():
        return None
    categories = _categories(root, table)
    concepts, concept_numbers = _concepts(root, categories)
    rows = _rows(root / "index.csv", table, categories)
    reader = MaskReader(root, tuple(rows[image] for image in images), concept_numbers, identity)
    sizes = tuple(row.size for row in reader.rows)
    return SegmentationLabels(concepts, sizes, reader, reader.identify)


@dataclass(frozen=True)
class MaskReader:
    """Decoder of labels; `concept_numbers` is indexed by category and label number."""

    root: Path
    rows: tuple[IndexRow, ...]
    concept_numbers: dict[str, Int[np.ndarray, " labels"]]
    identity: str = "stat"

    def __call__(self, index: int) -> Annotation:
        row = self.rows[index]
        whole: dict[str, tuple[int, ...]] = {}
        pixels: dict[str, Int[np.ndarray, "layers h w"]] = {}
        for category, cells in row.cells.items():
            numbers = self.concept_numbers[category]
            labels = [int(cell) for cell in cells if cell.isdecimal()]
            if any(label >= MAX_LABELS for label in labels):
                raise DissectError(f"{self.root / 'index.csv'}: no label has the number {cells}")
            files = [cell for cell in cells if not cell.isdecimal()]
            whole[category] = tuple(n for n in numbers[labels].tolist() if n != UNLABELLED)
            if files:
                pixels[category] = numbers[np.stack([self._mask(f, row.size) for f in files])]
        return Annotation(row.size, whole, pixels)

    def identify(self, index: int) -> str:
        """Return a text that changes with an image's cells, mask files or label meanings."""
        cells = self.rows[index].cells
        files = {cell for group in cells.values() for cell in group if not cell.isdecimal()}
        identities = [self._file_identity(file) for file in sorted(files)]
        return repr((sorted(cells.items()), identities, self._meaning))

    @cached_property
    def _meaning(self) -> str:
        """Hash of the label numbers' concepts, since swapped names leave mask files unchanged."""
        pairs = {}
        for category, numbers in self.concept_numbers.items():
            labels = np.flatnonzero(numbers != UNLABELLED)
            pairs[category] = list(zip(labels.tolist(), numbers[labels].tolist(), strict=True))
        return hashing.hash_values(pairs)

    def _file_identity(self, name: str) -> str:
        path = self._path(name)
        try:
            if self.identity == "content":
                return hashing.hash_file(path)
            stat = path.stat()
        except OSError as error:
            raise DissectError(f"can't read the mask {path}: {error.strerror}") from error
        return f"{stat.st_size} {stat.st_mtime_ns}"

    def _path(self, name: str) -> Path:
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise DissectError(f"{self.root / 'index.csv'} lists a mask outside of images: {name}")
        return self.root / "images" / name

    def _mask(self, name: str, size: tuple[int, int]) -> Int[np.ndarray, "h w"]:
        path = self._path(name)
        try:
            with Image.open(path) as image:
                mask = label_numbers(image)
        except Exception as error:  # decoders raise any exception on damaged files
            raise DissectError(f"can't read the mask {path}: {error}") from error
        if mask.shape != size:
            raise DissectError(
                f"the mask {path} has {mask.shape[0]} x {mask.shape[1]} pixels, but the index "
                f"says {size[0]} x {size[1]} (sh, sw)"
            )
        return mask


def label_numbers(image: Image.Image) -> Int[np.ndarray, "h w"]:
    """Return a mask's label numbers: red + 256 * green, or the values of a grey image."""
    if image.mode in ("L", "I", "I;16"):
        return np.asarray(image).astype(np.int32)
    pixels = np.asarray(image.convert("RGB")).astype(np.int32)
    numbers: Int[np.ndarray, "h w"] = pixels[..., 0] + 256 * pixels[..., 1]
    return numbers


def _categories(root: Path, table: pd.DataFrame) -> list[str]:
    """Return the index's categories, in the order of `category.csv` if it exists."""
    columns = [str(column) for column in table if column not in NOT_CATEGORIES]
    file = root / "category.csv"
    if not file.is_file():
        return columns
    return [
        category for category in read_labels(file, "name")["name"].tolist() if category in columns
    ]


def _concepts(
    root: Path, categories: Sequence[str]
) -> tuple[tuple[Concept, ...], dict[str, Int[np.ndarray, " labels"]]]:
    """Return all concepts and, per category, the concept number per label number."""
    concepts: list[Concept] = []
    concept_numbers = {}
    for category in categories:
        numbers = np.full(MAX_LABELS, UNLABELLED, dtype=np.int32)
        for label, name in _labels(root, category):
            numbers[label] = len(concepts)
            concepts.append(Concept(category, name, words(name)))
        concept_numbers[category] = numbers
    return tuple(concepts), concept_numbers


def _labels(root: Path, category: str) -> list[tuple[int, str]]:
    """Read a category's label numbers and names from `c_<category>.csv`, else `label.csv`."""
    file = root / f"c_{category}.csv"
    if file.is_file():
        table = read_labels(file, "number", "name")
    else:
        file = root / "label.csv"
        table = read_labels(file, "number", "name", "category")
        table = table[[category in _category_names(cell) for cell in table["category"]]]
    names = dict(zip(table["number"], table["name"], strict=True))
    for number in names:
        if not (number.isdecimal() and int(number) < MAX_LABELS):
            raise DissectError(f"{file}: a label has the number '{number}'")
    return [(int(number), name) for number, name in names.items() if int(number)]


def _category_names(cell: str) -> list[str]:
    """Return a label's categories: `object(120);part(7)` is object and part."""
    return [part.partition("(")[0].strip() for part in cell.split(";")]


def _rows(file: Path, table: pd.DataFrame, categories: Sequence[str]) -> dict[str, IndexRow]:
    rows: dict[str, IndexRow] = {}
    columns = ["image", "sh", "sw", *categories]
    filled = table[table["image"].notna()][columns].fillna("")
    for image, height, width, *cells in filled.itertuples(index=False, name=None):
        size = _size(file, image, height, width)
        row = rows.setdefault(image, IndexRow(size, {}))
        if row.size != size:
            raise DissectError(f"{file} has two mask sizes (sh, sw) for {image}")
        for category, cell in zip(categories, cells, strict=True):
            parts = (*row.cells.get(category, ()), *filter(None, map(str.strip, cell.split(";"))))
            if parts:
                row.cells[category] = tuple(dict.fromkeys(parts))
    return rows


def _size(file: Path, image: str, height: Any, width: Any) -> tuple[int, int]:
    if not all(str(side).isdecimal() and int(side) for side in (height, width)):
        raise DissectError(f"{file}: the masks of {image} have no size (sh, sw)")
    return int(height), int(width)
