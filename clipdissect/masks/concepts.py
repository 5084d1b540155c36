"""Where every concept is, in all images, as bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt64
from torch import Tensor
from tqdm import tqdm

from clipdissect.datasets.segmentation import Annotation, Concept, SegmentationLabels
from clipdissect.errors import DissectError
from clipdissect.masks.kernels import popcount
from clipdissect.masks.layout import Layout, packed
from clipdissect.store import Entry, Store
from clipdissect.utils import hashing

VERSION = 1  # raise it when the same labels give other bits
MOST_CATEGORIES = 62


@dataclass(frozen=True)
class ConceptMasks:
    """Every word of the layout with the concepts that have a bit in it.

    Few concepts are in any one place, so a word has a short list of them: entries `rows[w]` to
    `rows[w + 1]`. Comparing a unit with all concepts then costs what the unit's own words cost.

    Args:
        concepts: the concepts.
        layout: of the words.
        rows: `[words + 1]`, the first entry of each word.
        concept: each entry's concept.
        bits: each entry's bits.
        annotated: of each image, bit c: whether it is annotated in category c.
    """

    concepts: tuple[Concept, ...]
    layout: Layout
    rows: Int[np.ndarray, " words_and_one"]
    concept: Int[np.ndarray, " entries"]
    bits: UInt64[np.ndarray, " entries"]
    annotated: Int[np.ndarray, " images"]

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """The categories, in the concepts' order."""
        return tuple(dict.fromkeys(c.category for c in self.concepts))

    @cached_property
    def category(self) -> Int[np.ndarray, " concepts"]:
        """Each concept's category, by number."""
        return np.array([self.categories.index(c.category) for c in self.concepts])

    @cached_property
    def pixels(self) -> Int[np.ndarray, " concepts"]:
        """How many pixels show each concept."""
        # Sums of whole numbers in float64 are exact below 2^53.
        total = np.bincount(self.concept, popcount(self.bits), minlength=len(self.concepts))
        return total.astype(np.int64)

    def without(self, images: Int[np.ndarray, " skipped"]) -> ConceptMasks:
        """With nothing in some images, and these annotated in no category."""
        if not len(images):
            return self
        gone = np.zeros(len(self.annotated), dtype=bool)
        gone[images] = True
        word = np.repeat(np.arange(self.layout.words), np.diff(self.rows))
        kept = ~gone[self.layout.images_of(word)]
        return replace(
            self, rows=_starts(word[kept], self.layout.words), concept=self.concept[kept],
            bits=self.bits[kept], annotated=np.where(gone, 0, self.annotated),
        )  # fmt: skip

    def shuffled(self, images: Sequence[int], seed: int) -> ConceptMasks:
        """With each image's masks and annotations those of another image of the same size.

        Args:
            images: numbers of those that change places.
            seed: of the permutation.
        """
        sizes, chosen = np.array(self.layout.sizes), np.asarray(images, dtype=np.int64)
        order, drawn = np.arange(len(sizes)), np.random.default_rng(seed)
        for size in np.unique(sizes[chosen], axis=0):
            own = chosen[(sizes[chosen] == size).all(1)]
            order[own] = drawn.permutation(own)
        starts = self.layout.starts
        source = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in order])
        counts = np.diff(self.rows)[source]
        rows = np.concatenate([[0], np.cumsum(counts)])
        entry = np.repeat(self.rows[source] - rows[:-1], counts) + np.arange(rows[-1])
        return replace(
            self, rows=rows, concept=self.concept[entry], bits=self.bits[entry],
            annotated=self.annotated[order],
        )  # fmt: skip


def concept_masks(masks: SegmentationLabels, store: Store) -> ConceptMasks:
    """All labels of a probe, packed; from the store where it has them.

    Raises:
        DissectError: a mask that can't be read; more than 62 categories.
    """
    if len(masks.categories) > MOST_CATEGORIES:
        raise DissectError(
            f"the labels have {len(masks.categories)} categories; {MOST_CATEGORIES} fit: choose "
            f"some with method.categories"
        )
    key = hashing.hash_values("concept masks", VERSION, masks.digest())
    found = store.get(key)
    if found is None:
        with store.locked([key]):
            found = store.get(key)  # another process may have been faster
            if found is None:
                found = _packed(masks)
                store.put(key, found)
    arrays = found.arrays
    return ConceptMasks(
        masks.concepts, Layout.of(masks.sizes), arrays["rows"].numpy(), arrays["concept"].numpy(),
        arrays["bits"].numpy().view(np.uint64), arrays["annotated"].numpy(),
    )  # fmt: skip


def _packed(masks: SegmentationLabels) -> Entry:
    layout = Layout.of(masks.sizes)
    categories = masks.categories
    words, concepts, bits, annotated = [], [], [], []
    for image in tqdm(range(len(masks)), "masks", unit="img", disable=None):
        annotation = masks.read(image)
        annotated.append(sum(1 << i for i, c in enumerate(categories)
                             if c in annotation.categories))  # fmt: skip
        word, concept, own = _of_image(annotation)
        words.append(word + layout.starts[image])
        concepts.append(concept)
        bits.append(own)
    arrays = {
        "rows": _starts(np.concatenate(words), layout.words),
        "concept": np.concatenate(concepts).astype(np.int32),
        "bits": np.concatenate(bits).view(np.int64), "annotated": np.array(annotated, np.int64),
    }  # fmt: skip
    about = {"what": "concept masks", "images": len(masks), "concepts": len(masks.concepts)}
    return Entry({name: _tensor(array) for name, array in arrays.items()}, about)


def _of_image(
    annotation: Annotation,
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], UInt64[np.ndarray, " n"]]:
    """Word, concept and bits of an image's entries, ordered by word, then by concept."""
    found = annotation.concepts()
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint64)
    numbers = np.array(sorted(found))
    stacked: Bool[np.ndarray, "concepts pixels"] = np.stack([found[n].reshape(-1) for n in numbers])
    own = packed(stacked)
    word, place = own.T.nonzero()
    return word, numbers[place], own[place, word]


def _starts(word: Int[np.ndarray, " n"], words: int) -> Int[np.ndarray, " words_and_one"]:
    """First entry of each word, from the words of the entries in order."""
    return np.concatenate([[0], np.cumsum(np.bincount(word, minlength=words))]).astype(np.int64)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
