"""Dense labels: which pixels of an image show which concept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Int

from clipdissect.errors import DissectError, unknown
from clipdissect.utils import hashing

UNLABELLED = -1


@dataclass(frozen=True)
class Concept:
    """A label of one category, such as `object`."""

    category: str
    label: str  # name in the label files, such as `coast-s`
    text: str  # name in words, such as `coast`


@dataclass(frozen=True)
class Annotation:
    """One image's labels; it isn't annotated in the categories of neither mapping.

    Args:
        size: height and width of its masks.
        whole: category to the numbers of the concepts of the image as a whole.
        pixels: category to layers of concept numbers or `UNLABELLED`; a pixel may have one label
            per layer.
    """

    size: tuple[int, int]
    whole: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    pixels: Mapping[str, Int[np.ndarray, "_ h w"]] = field(default_factory=dict)

    @property
    def categories(self) -> frozenset[str]:
        """Categories that the image is annotated in."""
        return frozenset(self.whole) | frozenset(self.pixels)

    def concepts(self) -> dict[int, Bool[np.ndarray, "h w"]]:
        """Return the mask of each concept in the image, by number."""
        masks: dict[int, Bool[np.ndarray, "h w"]] = {}
        for layers in self.pixels.values():
            for layer in layers:
                # Labels are small numbers: counting finds those that occur faster than sorting.
                for number in np.bincount((layer + 1).reshape(-1))[1:].nonzero()[0].tolist():
                    mask = layer == number
                    masks[number] = masks[number] | mask if number in masks else mask
        for number in (n for numbers in self.whole.values() for n in numbers):
            masks[number] = np.ones(self.size, dtype=bool)
        return masks


@dataclass(frozen=True)
class SegmentationLabels:
    """Dense labels of a probe's images.

    Args:
        concepts: all concepts, category by category.
        sizes: height and width of each image's masks.
        read: returns the labels of image `i`.
        identify: returns a text that changes with the masks of image `i` and with the concepts
            that their numbers stand for.
    """

    concepts: tuple[Concept, ...]
    sizes: tuple[tuple[int, int], ...]
    read: Callable[[int], Annotation]
    identify: Callable[[int], str]

    def __post_init__(self) -> None:
        if not self.concepts:
            raise DissectError("the dense labels have no concepts")

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories, in the concepts' order."""
        return tuple(dict.fromkeys(concept.category for concept in self.concepts))

    @property
    def texts(self) -> tuple[str, ...]:
        """Distinct concepts in words: `door` is both an object and a part."""
        return tuple(dict.fromkeys(concept.text for concept in self.concepts))

    def digest(self) -> str:
        """Return a digest of the concepts, the sizes and all images' labels; reads every file."""
        concepts = [(c.category, c.label, c.text) for c in self.concepts]
        return hashing.hash_values(
            "masks 2", concepts, self.sizes, [*map(self.identify, range(len(self)))]
        )

    def subset(self, numbers: Sequence[int]) -> SegmentationLabels:
        """Return the labels of some images, in the given order."""
        chosen = tuple(numbers)
        return replace(
            self,
            sizes=tuple(self.sizes[i] for i in chosen),
            read=lambda index: self.read(chosen[index]),
            identify=lambda index: self.identify(chosen[index]),
        )

    def of_categories(self, wanted: Sequence[str] | None) -> SegmentationLabels:
        """Keep the concepts of some categories only; all if None."""
        if wanted is None:
            return self
        for category in wanted:
            if category not in self.categories:
                raise unknown("category (method.categories)", category, self.categories)
        kept = [i for i, c in enumerate(self.concepts) if c.category in wanted]
        number = np.full(len(self.concepts) + 1, UNLABELLED)  # the last for UNLABELLED
        number[kept] = np.arange(len(kept))
        return replace(
            self,
            concepts=tuple(self.concepts[i] for i in kept),
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
