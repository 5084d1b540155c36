"""Masks of all concepts in all images, as bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt64

from clipdissect.datasets.segmentation import Annotation, Concept, SegmentationLabels
from clipdissect.errors import DissectError
from clipdissect.masks.kernels import popcount
from clipdissect.masks.layout import Layout, first_entries, packed
from clipdissect.store import Entry, Store
from clipdissect.utils import hashing
from clipdissect.utils.progress import progress

VERSION = 1  # raise it when the same labels give other bits
MAX_CATEGORIES = 62  # one bit each in a signed 64-bit integer, below its sign


class MaskEntries(NamedTuple):
    """Sparse masks by word (CSR): entries `rows[w]` to `rows[w + 1]` are those of word w."""

    rows: Int[np.ndarray, " words_and_one"]
    concept: Int[np.ndarray, " entries"]
    bits: UInt64[np.ndarray, " entries"]


@dataclass(frozen=True)
class ConceptMasks:
    """The concepts that have a bit in each word of the layout.

    A word has few concepts, so comparing a unit with all of them takes time proportional to the
    unit's words. `annotated` holds, per image, bit c if it is annotated in category c.
    """

    concepts: tuple[Concept, ...]
    layout: Layout
    entries: MaskEntries
    annotated: Int[np.ndarray, " images"]

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """Return the categories, in the concepts' order."""
        return tuple(dict.fromkeys(c.category for c in self.concepts))

    @cached_property
    def category(self) -> Int[np.ndarray, " concepts"]:
        """Return the category number per concept."""
        return np.array([self.categories.index(c.category) for c in self.concepts])

    @cached_property
    def pixels(self) -> Int[np.ndarray, " concepts"]:
        """Return the number of pixels that show each concept."""
        # Sums of whole numbers in float64 are exact below 2^53.
        weights = popcount(self.entries.bits)
        total = np.bincount(self.entries.concept, weights, minlength=len(self.concepts))
        return total.astype(np.int64)

    def without(self, images: Int[np.ndarray, " skipped"]) -> ConceptMasks:
        """Return the masks with some images empty and annotated in no category."""
        if not len(images):
            return self
        removed = np.zeros(len(self.annotated), dtype=bool)
        removed[images] = True
        rows, concept, bits = self.entries
        word = np.repeat(np.arange(self.layout.words), np.diff(rows))
        remaining = ~removed[self.layout.images_of(word)]
        rows = first_entries(word[remaining], self.layout.words)
        entries = MaskEntries(rows, concept[remaining], bits[remaining])
        return replace(self, entries=entries, annotated=np.where(removed, 0, self.annotated))

    def shuffled(self, images: Sequence[int], seed: int) -> ConceptMasks:
        """Permute masks and annotations among the given images of equal size."""
        sizes, chosen = np.array(self.layout.sizes), np.asarray(images, dtype=np.int64)
        order, generator = np.arange(len(sizes)), np.random.default_rng(seed)
        for size in np.unique(sizes[chosen], axis=0):
            same_size = chosen[(sizes[chosen] == size).all(1)]
            order[same_size] = generator.permutation(same_size)
        starts, (old_rows, concept, bits) = self.layout.starts, self.entries
        source = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in order])
        counts = np.diff(old_rows)[source]
        rows = np.concatenate([[0], np.cumsum(counts)])
        entry = np.repeat(old_rows[source] - rows[:-1], counts) + np.arange(rows[-1])
        entries = MaskEntries(rows, concept[entry], bits[entry])
        return replace(self, entries=entries, annotated=self.annotated[order])


def concept_masks(labels: SegmentationLabels, store: Store) -> ConceptMasks:
    """Pack all labels of a probe, or load them; raise a DissectError if a mask is unreadable."""
    if len(labels.categories) > MAX_CATEGORIES:
        raise DissectError(
            f"the labels have {len(labels.categories)} categories; at most {MAX_CATEGORIES} fit: "
            f"choose some with method.categories"
        )
    key = hashing.hash_values("concept masks", VERSION, labels.digest())
    stored = store.get(key)
    if stored is None:
        with store.locked([key]):
            stored = store.get(key)  # another process may have been faster
            if stored is None:
                stored = _packed_labels(labels)
                store.put(key, stored)
    arrays = {name: array.numpy() for name, array in stored.arrays.items()}
    entries = MaskEntries(arrays["rows"], arrays["concept"], arrays["bits"].view(np.uint64))
    return ConceptMasks(labels.concepts, Layout.of(labels.sizes), entries, arrays["annotated"])


def _packed_labels(labels: SegmentationLabels) -> Entry:
    layout, categories = Layout.of(labels.sizes), labels.categories
    words, concepts, bits, annotated = [], [], [], []
    for image in progress(range(len(labels)), "masks", "img"):
        annotation = labels.read(image)
        bit_set = sum(1 << i for i, c in enumerate(categories) if c in annotation.categories)
        annotated.append(bit_set)
        word, concept, word_bits = _image_entries(annotation)
        words.append(word + layout.starts[image])
        concepts.append(concept)
        bits.append(word_bits)
    arrays = {
        "rows": first_entries(np.concatenate(words), layout.words),
        "concept": np.concatenate(concepts).astype(np.int32),
        "bits": np.concatenate(bits).view(np.int64),
        "annotated": np.array(annotated, np.int64),
    }
    about = {"what": "concept masks", "images": len(labels), "concepts": len(labels.concepts)}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    return Entry(tensors, about)


def _image_entries(
    annotation: Annotation,
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], UInt64[np.ndarray, " n"]]:
    """Return the word, concept and bits of an image's entries, sorted by word, then concept."""
    masks = annotation.concepts()
    if not masks:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint64)
    numbers = np.array(sorted(masks))
    stacked: Bool[np.ndarray, "concepts pixels"] = np.stack([masks[n].reshape(-1) for n in numbers])
    bits = packed(stacked)
    word, row = bits.T.nonzero()
    return word, numbers[row], bits[row, word]
