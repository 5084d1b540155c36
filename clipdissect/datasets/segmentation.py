"""Dense labels: the concept of each pixel; names of Broden's labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from clipdissect.errors import DissectError, unknown
from clipdissect.utils import hashing

UNLABELLED = -1
COLOUR_SUFFIX = "-c"  # of Broden's labels of the category color


@dataclass(frozen=True)
class Concept:
    """A label of one category, such as `object`."""

    category: str
    label: str  # name in the label files, such as `coast-s`
    text: str  # name in words, such as `coast`


@dataclass(frozen=True)
class Annotation:
    """One image's labels; it is annotated in the categories of either mapping."""

    size: tuple[int, int]  # height and width of the masks
    # Concept numbers by category: of the whole image, and layers per pixel or UNLABELLED.
    whole: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    pixels: Mapping[str, Int[np.ndarray, "_ h w"]] = field(default_factory=dict)

    @property
    def categories(self) -> frozenset[str]:
        return frozenset(self.whole) | frozenset(self.pixels)

    def concepts(self) -> dict[int, Bool[np.ndarray, "h w"]]:
        """Return the mask of each concept in the image, by number."""
        masks: dict[int, Bool[np.ndarray, "h w"]] = {}
        for layers in self.pixels.values():
            for layer in layers:
                # Labels are small numbers, so bincount is faster than the sort in np.unique.
                for number in np.bincount((layer + 1).reshape(-1))[1:].nonzero()[0].tolist():
                    mask = layer == number
                    masks[number] = masks[number] | mask if number in masks else mask
        for number in (n for numbers in self.whole.values() for n in numbers):
            masks[number] = np.ones(self.size, dtype=bool)
        return masks


@dataclass(frozen=True)
class SegmentationLabels:
    """Dense labels of a probe's images."""

    concepts: tuple[Concept, ...]  # category by category
    sizes: tuple[tuple[int, int], ...]  # height and width of the masks, per image
    read: Callable[[int], Annotation]  # labels of image `i`
    identify: Callable[[int], str]  # a text that changes with image `i`'s masks or concepts

    def __post_init__(self) -> None:
        if not self.concepts:
            raise DissectError("the dense labels have no concepts")

    def __repr__(self) -> str:
        return f"<SegmentationLabels: {len(self):,} images, {len(self.concepts):,} concepts>"

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(concept.category for concept in self.concepts))

    @property
    def texts(self) -> tuple[str, ...]:
        """Distinct concepts in words: `door` is both an object and a part."""
        return tuple(dict.fromkeys(concept.text for concept in self.concepts))

    def digest(self) -> str:
        """Return a hash of the concepts, sizes and all labels; reads every file."""
        concepts = [(c.category, c.label, c.text) for c in self.concepts]
        return hashing.hash_values(
            "masks 2", concepts, self.sizes, [*map(self.identify, range(len(self)))]
        )

    def subset(self, numbers: Sequence[int]) -> SegmentationLabels:
        chosen = tuple(numbers)
        return replace(
            self,
            sizes=tuple(self.sizes[i] for i in chosen),
            read=lambda index: self.read(chosen[index]),
            identify=lambda index: self.identify(chosen[index]),
        )

    def of_categories(self, wanted: Sequence[str] | None) -> SegmentationLabels:
        """Return only the concepts of some categories; all if None."""
        if wanted is None:
            return self
        for category in wanted:
            if category not in self.categories:
                raise unknown("category (method.categories)", category, self.categories)
        indices = [i for i, c in enumerate(self.concepts) if c.category in wanted]
        number = np.full(len(self.concepts) + 1, UNLABELLED)  # UNLABELLED maps to itself
        number[indices] = np.arange(len(indices))
        return replace(
            self,
            concepts=tuple(self.concepts[i] for i in indices),
            read=lambda index: _renumbered(self.read(index), number, frozenset(wanted)),
        )


def _renumbered(
    annotation: Annotation, number: Int[np.ndarray, " concepts"], wanted: frozenset[str]
) -> Annotation:
    whole = {
        category: tuple(int(number[n]) for n in numbers)
        for category, numbers in annotation.whole.items()
        if category in wanted
    }
    pixels = {c: number[layers] for c, layers in annotation.pixels.items() if c in wanted}
    return replace(annotation, whole=whole, pixels=pixels)


def label_names(root: Path) -> dict[str, str]:
    """Map the release's label numbers to names in words; see `words`."""
    table = read_labels(root / "label.csv", "number", "name")
    return {n: words(name) for n, name in zip(table["number"], table["name"], strict=True)}


def words(name: str) -> str:
    """Return a label in words: `apartment_building-outdoor-s` is `apartment building-outdoor`."""
    return name.removesuffix("-s").replace("_", " ")


def read_labels(file: Path, *columns: str) -> pd.DataFrame:
    """Read a CSV file of labels as text; raise a DissectError if a column is missing."""
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DissectError(f"{file} is not a CSV file: {error}") from error
    if not set(columns) <= set(table):
        raise DissectError(f"{file} must have the columns {', '.join(columns)}")
    return table
