"""Masks as words of 64 bits: where each image's lie, and packing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int, UInt64

WORD = 64


@dataclass(frozen=True)
class Layout:
    """The words of all images' masks, one image after the other.

    Pixels go row by row; pixel p of an image is bit `p % 64` of its word `p // 64`. Each image
    starts with a word of its own, so that images of different sizes go together.

    Args:
        sizes: height and width of each image's mask.
    """

    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]]) -> Layout:
        """The layout of masks of these sizes."""
        return cls(tuple(sizes))

    @cached_property
    def starts(self) -> Int[np.ndarray, " images_and_one"]:
        """Number of each image's first word, and of all words."""
        words = [-(-height * width // WORD) for height, width in self.sizes]
        return np.concatenate([[0], np.cumsum(words, dtype=np.int64)])

    @property
    def words(self) -> int:
        """How many words there are."""
        return int(self.starts[-1])

    @property
    def pixels(self) -> int:
        """How many pixels there are."""
        return sum(height * width for height, width in self.sizes)

    def images_of(self, words: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The image of each word."""
        return np.searchsorted(self.starts, words, side="right") - 1


def packed(masks: Bool[np.ndarray, "n pixels"]) -> UInt64[np.ndarray, "n words"]:
    """Masks as words; the last word is filled up with zeros."""
    count, pixels = masks.shape
    filled = np.zeros((count, -(-pixels // WORD) * WORD), dtype=bool)
    filled[:, :pixels] = masks
    # Little-endian bits and bytes, on any machine.
    found = np.packbits(filled, axis=1, bitorder="little").view("<u8")
    return found.astype(np.uint64, copy=False)


def unpacked(words: UInt64[np.ndarray, "n words"], pixels: int) -> Bool[np.ndarray, "n pixels"]:
    """The opposite of `packed`."""
    octets = words.astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(octets, axis=1, bitorder="little")[:, :pixels].astype(bool)
