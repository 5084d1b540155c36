"""How many concepts are worked on at once."""

from __future__ import annotations

from math import ceil

import torch

Blocks = list[tuple[int, int]]

# On a CPU a block that stays in the last level of cache is faster than one that fills the budget.
_CACHE_BYTES = 24_000_000
# Below this many concepts a block's fixed costs show.
_FEWEST = 64
# Share of the budget for one block with all its temporary arrays.
_BLOCK_SHARE = 0.5


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
