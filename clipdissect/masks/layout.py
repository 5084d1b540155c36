"""Layout of masks in words of 64 bits, and packing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int, UInt64

WORD = 64


@dataclass(frozen=True)
class Layout:
    """The words of all images' masks, of the given heights and widths, one after the other.

    Pixels go row by row; pixel p of an image is bit `p % 64` of its word `p // 64`. Each image
    starts with a new word, so that images of different sizes fit in one array.
    """

    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]]) -> Layout:
        return cls(tuple(sizes))

    @cached_property
    def starts(self) -> Int[np.ndarray, " images_and_one"]:
        """Return the number of each image's first word, and of all words last."""
        words = [-(-height * width // WORD) for height, width in self.sizes]
        return np.concatenate([[0], np.cumsum(words, dtype=np.int64)])

    @property
    def words(self) -> int:
        return int(self.starts[-1])

    @property
    def pixels(self) -> int:
        return sum(height * width for height, width in self.sizes)

    def images_of(self, words: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Return the image of each word."""
        return np.searchsorted(self.starts, words, side="right") - 1


def packed(masks: Bool[np.ndarray, "n pixels"]) -> UInt64[np.ndarray, "n words"]:
    """Pack masks into words; the last word is padded with zeros."""
    count, pixels = masks.shape
    padded = np.zeros((count, -(-pixels // WORD) * WORD), dtype=bool)
    padded[:, :pixels] = masks
    # Little-endian bits and bytes, on any machine.
    words = np.packbits(padded, axis=1, bitorder="little").view("<u8")
    return words.astype(np.uint64, copy=False)


def unpacked(words: UInt64[np.ndarray, "n words"], pixels: int) -> Bool[np.ndarray, "n pixels"]:
    """Undo `packed`."""
    octets = words.astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(octets, axis=1, bitorder="little")[:, :pixels].astype(bool)


def first_entries(rows: Int[np.ndarray, " n"], count: int) -> Int[np.ndarray, " count_and_one"]:
    """Return where each of `count` rows starts among entries sorted by row (CSR's `indptr`)."""
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))]).astype(np.int64)
