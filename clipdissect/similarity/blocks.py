"""How many concepts are worked on at once, and P kept between two passes over them."""

from __future__ import annotations

from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.similarity.sources import Source

Blocks = list[tuple[int, int]]

# On a CPU a block that stays in the last level of cache is faster than one that fills the budget.
_CACHE_BYTES = 24_000_000
# Below this many concepts a block's fixed costs show.
_FEWEST = 128
# Shares of the budget: one block with all its temporary arrays, and P kept for the second pass.
_BLOCK_SHARE = 0.5
_KEPT_SHARE = 0.125


def concept_blocks(
    concepts: int, floats_per_concept: int, memory_gb: float, device: torch.device
) -> Blocks:
    """Ranges of concepts whose working memory stays within the budget.

    Args:
        concepts: how many there are.
        floats_per_concept: float32 numbers held at once for each concept of a block.
        memory_gb: budget in units of 10^9 bytes; one concept is worked on however small it is.
        device: where the work is done.
    """
    bytes_each = 4 * max(1, floats_per_concept)
    size = int(memory_gb * 1e9 * _BLOCK_SHARE / bytes_each)
    if device.type == "cpu":
        size = min(size, max(_FEWEST, _CACHE_BYTES // bytes_each))
    size = max(1, min(size, concepts))
    # Even blocks in whole passes of the inner loops, rather than full ones and a small rest.
    size = ceil(concepts / ceil(concepts / size))
    whole = 128 if size >= 128 else 16 if size >= 16 else 1
    size = ceil(size / whole) * whole
    return [(start, min(start + size, concepts)) for start in range(0, concepts, size)]


class Remembered:
    """A source that keeps the first blocks it computed, up to a share of the budget.

    Softmax needs two passes over P: one for its denominators, one for the scores. What fits is
    kept from the first and handed out once in the second; the rest is computed again.
    """

    def __init__(self, source: Source, memory_gb: float) -> None:
        self._source = source
        self._left = int(memory_gb * 1e9 * _KEPT_SHARE)
        self._kept: dict[tuple[int, int], Tensor] = {}

    def look(self, start: int, stop: int) -> Float[Tensor, "images block"]:
        """A block that the caller must leave as it is; kept where memory allows."""
        block = self._source.block(start, stop)
        size = block.numel() * block.element_size()
        if size <= self._left:
            self._left -= size
            self._kept[start, stop] = block
        return block

    def take(self, start: int, stop: int) -> Float[Tensor, "images block"]:
        """A block that the caller may overwrite; no longer kept."""
        kept = self._kept.pop((start, stop), None)
        return self._source.block(start, stop) if kept is None else kept
