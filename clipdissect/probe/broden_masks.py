"""The pixel masks and whole-image labels of Broden's layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from PIL import Image

from clipdissect.datasets.broden_labels import words
from clipdissect.datasets.segmentation import UNLABELLED, Annotation, Concept, SegmentationLabels
from clipdissect.errors import DissectError
from clipdissect.utils import hashing

NOT_CATEGORIES = ("image", "split", "ih", "iw", "sh", "sw")
HIGHEST = 1 << 16  # a mask's red is the low byte of a label's number, its green the high one


@dataclass(frozen=True)
class Row:
    """What the index says of one image.

    Args:
        size: height and width of its masks.
        cells: category to label numbers (of the whole image) and mask files, in words.
    """

    size: tuple[int, int]
    cells: dict[str, tuple[str, ...]]


def masks_of(
    root: Path, table: pd.DataFrame, images: Sequence[str], identity: str
) -> SegmentationLabels | None:
    """The masks of a release's images; None where it has images alone.

    Args:
        root: the release.
        table: its `index.csv`, as texts.
        images: names of the images wanted, in order.
        identity: `stat` or `content`, of the mask files; see `probe.options.ProbeOptions`.

    Raises:
        DissectError: the index or the label files contradict themselves.
    """
    if not {"sh", "sw"} <= set(table) or not (root / "label.csv").is_file():
        return None
    categories = _categories(root, table)
    concepts, numbers = _concepts(root, categories)
    rows = _rows(root / "index.csv", table, categories)
    reader = Reader(root, tuple(rows[image] for image in images), numbers, identity)
    return SegmentationLabels(
        concepts, tuple(row.size for row in reader.rows), reader, reader.identify
    )


@dataclass(frozen=True)
class Reader:
    """Decodes the labels of an image by its number.

    Args:
        root: the release.
        rows: of the index, image by image.
        numbers: category to concept number by label number, `UNLABELLED` for labels that aren't
            the category's.
        identity: what tells a mask file from another.
    """

    root: Path
    rows: tuple[Row, ...]
    numbers: dict[str, Int[np.ndarray, " labels"]]
    identity: str = "stat"

    def __call__(self, index: int) -> Annotation:
        """The labels of an image.

        Raises:
            DissectError: a mask that isn't there, isn't an image or has another size than the
                index says; a label number that isn't one.
        """
        row = self.rows[index]
        whole: dict[str, tuple[int, ...]] = {}
        pixels: dict[str, Int[np.ndarray, "layers h w"]] = {}
        for category, cells in row.cells.items():
            numbers = self.numbers[category]
            labels = [int(cell) for cell in cells if cell.isdecimal()]
            if any(label >= HIGHEST for label in labels):
                raise DissectError(f"{self.root / 'index.csv'}: no label has the number {cells}")
            files = [cell for cell in cells if not cell.isdecimal()]
            whole[category] = tuple(n for n in numbers[labels].tolist() if n != UNLABELLED)
            if files:
                pixels[category] = numbers[np.stack([self._mask(f, row.size) for f in files])]
        return Annotation(row.size, whole, pixels)

    def identify(self, index: int) -> str:
        """The image's cells, and of each mask file name, size and time, or its bytes' digest; and
        what the numbers in them mean."""
        cells = self.rows[index].cells
        files = {cell for each in cells.values() for cell in each if not cell.isdecimal()}
        identities = [self._identity(f) for f in sorted(files)]
        return repr((sorted(cells.items()), identities, self._meaning))

    @cached_property
    def _meaning(self) -> str:
        """Changes with the concept of any label number: swapped names leave files and concepts."""
        pairs = {}
        for category, table in self.numbers.items():
            labels = np.flatnonzero(table != UNLABELLED)
            pairs[category] = list(zip(labels.tolist(), table[labels].tolist(), strict=True))
        return hashing.hash_values(pairs)

    def _identity(self, name: str) -> str:
        path = self._path(name)
        try:
            if self.identity == "content":
                return hashing.hash_file(path)
            stat = path.stat()
        except OSError as error:
            raise DissectError(f"can't read the mask {path}: {error.strerror}") from error
        return f"{stat.st_size} {stat.st_mtime_ns}"

    def _path(self, name: str) -> Path:
        below = PurePosixPath(name)
        if below.is_absolute() or ".." in below.parts:
            raise DissectError(f"{self.root / 'index.csv'} lists a mask outside of images: {name}")
        return self.root / "images" / name

    def _mask(self, name: str, size: tuple[int, int]) -> Int[np.ndarray, "h w"]:
        path = self._path(name)
        try:
            with Image.open(path) as image:
                found = label_numbers(image)
        except Exception as error:  # decoders raise anything on damaged files
            raise DissectError(f"can't read the mask {path}: {error}") from error
        if found.shape != size:
            raise DissectError(
                f"the mask {path} has {found.shape[0]} x {found.shape[1]} pixels, but the index "
                f"says {size[0]} x {size[1]} (sh, sw)"
            )
        return found


def label_numbers(image: Image.Image) -> Int[np.ndarray, "h w"]:
    """A mask's label numbers: red + 256 * green; those of a grey image as they are."""
    if image.mode in ("L", "I", "I;16"):
        return np.asarray(image).astype(np.int32)
    pixels = np.asarray(image.convert("RGB")).astype(np.int32)
    numbers: Int[np.ndarray, "h w"] = pixels[..., 0] + 256 * pixels[..., 1]
    return numbers


def _categories(root: Path, table: pd.DataFrame) -> list[str]:
    """The categories in `category.csv`'s order, else in that of the index."""
    columns = [str(c) for c in table if c not in NOT_CATEGORIES]
    file = root / "category.csv"
    if not file.is_file():
        return columns
    listed = _texts(file, ("name",))["name"].tolist()
    return [category for category in listed if category in columns]


def _concepts(
    root: Path, categories: Sequence[str]
) -> tuple[tuple[Concept, ...], dict[str, Int[np.ndarray, " labels"]]]:
    """All concepts, and of each category the concept number of every label number."""
    concepts: list[Concept] = []
    numbers = {}
    for category in categories:
        table = np.full(HIGHEST, UNLABELLED, dtype=np.int32)
        for number, name in _labels(root, category):
            table[number] = len(concepts)
            concepts.append(Concept(category, name, words(name)))
        numbers[category] = table
    return tuple(concepts), numbers


def _labels(root: Path, category: str) -> list[tuple[int, str]]:
    """Numbers and names of a category's labels: of `c_<category>.csv`, else of `label.csv`."""
    file = root / f"c_{category}.csv"
    if file.is_file():
        table = _texts(file, ("number", "name"))
    else:
        file = root / "label.csv"
        table = _texts(file, ("number", "name", "category"))
        table = table[[category in _names(cell) for cell in table["category"]]]
    found = dict(zip(table["number"], table["name"], strict=True))
    for number in found:
        if not (number.isdecimal() and int(number) < HIGHEST):
            raise DissectError(f"{file}: a label has the number '{number}'")
    return [(int(number), name) for number, name in found.items() if int(number)]


def _names(cell: str) -> list[str]:
    """The categories of a label: `object(120);part(7)` is object and part."""
    return [part.partition("(")[0].strip() for part in cell.split(";")]


def _rows(file: Path, table: pd.DataFrame, categories: Sequence[str]) -> dict[str, Row]:
    """What the index says of each image; several rows of one image are taken together."""
    found: dict[str, Row] = {}
    columns = ["image", "sh", "sw", *categories]
    filled = table[table["image"].notna()][columns].fillna("")
    for image, high, wide, *cells in filled.itertuples(index=False, name=None):
        row = Row(_size(file, image, high, wide), {
            category: tuple(part.strip() for part in cell.split(";") if part.strip())
            for category, cell in zip(categories, cells, strict=True) if cell.strip(" ;")
        })  # fmt: skip
        found[image] = _together(file, image, found[image], row) if image in found else row
    return found


def _together(file: Path, image: str, one: Row, other: Row) -> Row:
    if one.size != other.size:
        raise DissectError(f"{file} gives the masks of {image} two sizes")
    cells = {
        c: tuple(dict.fromkeys((*one.cells.get(c, ()), *other.cells.get(c, ()))))
        for c in {**one.cells, **other.cells}
    }
    return Row(one.size, cells)


def _size(file: Path, image: str, high: Any, wide: Any) -> tuple[int, int]:
    if not (str(high).isdecimal() and str(wide).isdecimal() and int(high) and int(wide)):
        raise DissectError(f"{file}: the masks of {image} have no size (sh, sw)")
    return int(high), int(wide)


def _texts(file: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A table's cells as texts.

    Raises:
        DissectError: it isn't a table, or lacks one of the columns.
    """
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DissectError(f"{file} is not a CSV file: {error}") from error
    if not set(columns) <= set(table):
        raise DissectError(f"{file} must have the columns {', '.join(columns)}")
    return table
