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
    """A label of one category.

    Args:
        category: such as `object`.
        label: its name in the label files, such as `coast-s`.
        text: its name in words, such as `coast`.
    """

    category: str
    label: str
    text: str


@dataclass(frozen=True)
class Annotation:
    """What one image is labelled with; categories that are in neither mapping weren't looked at.

    Args:
        size: height and width of its masks.
        whole: category to the concepts of the image as a whole, by number.
        pixels: category to layers of concept numbers, `[layers, h, w]`; `UNLABELLED` where none.
            A pixel may have several labels, one a layer.
    """

    size: tuple[int, int]
    whole: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    pixels: Mapping[str, Int[np.ndarray, "_ h w"]] = field(default_factory=dict)

    @property
    def categories(self) -> frozenset[str]:
        """The categories that the image is annotated in."""
        return frozenset(self.whole) | frozenset(self.pixels)

    def concepts(self) -> dict[int, Bool[np.ndarray, "h w"]]:
        """Where each concept is, by number; a concept that is nowhere is left out."""
        found: dict[int, Bool[np.ndarray, "h w"]] = {}
        for layers in self.pixels.values():
            for layer in layers:
                # Labels are small numbers: counting finds those that occur faster than sorting.
                for number in np.bincount((layer + 1).reshape(-1))[1:].nonzero()[0].tolist():
                    here = layer == number
                    found[number] = found[number] | here if number in found else here
        for number in (n for numbers in self.whole.values() for n in numbers):
            found[number] = np.ones(self.size, dtype=bool)
        return found


@dataclass(frozen=True)
class SegmentationLabels:
    """The dense labels of a probe's images.

    Args:
        concepts: all concepts, category by category.
        sizes: height and width of each image's masks.
        read: the labels of image `i`.
        identify: a text that changes whenever the labels of image `i` do: its masks, or which
            concept a number in them stands for.

    Raises:
        DissectError: no concepts.
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
        """The categories, in the concepts' order."""
        return tuple(dict.fromkeys(concept.category for concept in self.concepts))

    @property
    def texts(self) -> tuple[str, ...]:
        """The concepts in words, each once: `door` is an object and a part."""
        return tuple(dict.fromkeys(concept.text for concept in self.concepts))

    def digest(self) -> str:
        """Changes with the concepts, the sizes and every image's labels; looks at every file."""
        concepts = [(c.category, c.label, c.text) for c in self.concepts]
        return hashing.hash_values(
            "masks 2", concepts, self.sizes, [*map(self.identify, range(len(self)))]
        )

    def subset(self, numbers: Sequence[int]) -> SegmentationLabels:
        """Those of some images, in the given order."""
        chosen = tuple(numbers)
        return replace(
            self,
            sizes=tuple(self.sizes[i] for i in chosen),
            read=lambda index: self.read(chosen[index]),
            identify=lambda index: self.identify(chosen[index]),
        )

    def of_categories(self, wanted: Sequence[str] | None) -> SegmentationLabels:
        """With the concepts of some categories only; all where None.

        Raises:
            DissectError: a category that there isn't, or none.
        """
        if wanted is None:
            return self
        for category in wanted:
            if category not in self.categories:
                raise unknown("category (method.categories)", category, self.categories)
        places = [i for i, c in enumerate(self.concepts) if c.category in wanted]
        number = np.full(len(self.concepts) + 1, UNLABELLED)  # the last for UNLABELLED
        number[places] = np.arange(len(places))
        return replace(
            self,
            concepts=tuple(self.concepts[i] for i in places),
            read=lambda index: _renumbered(self.read(index), number, frozenset(wanted)),
        )


def _renumbered(
    annotation: Annotation, number: Int[np.ndarray, " concepts"], wanted: frozenset[str]
) -> Annotation:
    return replace(
        annotation,
        whole={
            category: tuple(int(number[n]) for n in numbers)
            for category, numbers in annotation.whole.items() if category in wanted
        },
        pixels={c: number[layers] for c, layers in annotation.pixels.items() if c in wanted},
    )  # fmt: skip
