"""Nearest directions by cosine: of decoder rows to each other, or to text embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_COSINES_AT_ONCE = 1 << 25  # 128 MB; all cosines of 65,536 latents would take 17 GB


@dataclass(frozen=True)
class Nearest:
    """Each row's nearest directions, largest cosine first; number -1 and NaN where there is none.

    A vector of length 0 has no direction: it has no nearest ones and is nobody's.
    """

    numbers: Int[Tensor, "rows count"]
    cosines: Float[Tensor, "rows count"]

    @property
    def as_lists(self) -> list[list[tuple[int, float]]]:
        """Return `(number, cosine)` per row, without missing ones."""
        pairs = zip(self.numbers.tolist(), self.cosines.tolist(), strict=True)
        return [[(n, c) for n, c in zip(*row, strict=True) if n >= 0] for row in pairs]


@torch.no_grad()
def nearest(
    rows: Float[Tensor, "rows dims"],
    directions: Float[Tensor, "directions dims"],
    count: int,
    but_itself: bool = False,
) -> Nearest:
    """Return the `count` directions with the largest cosines, on the CPU.

    The rows' device computes. With `but_itself`, rows are the directions, and none is its own.
    """
    unit_rows, has_direction = _unit(rows)
    unit, exists = (unit_rows, has_direction) if but_itself else _unit(directions.to(rows.device))
    numbers = torch.full((len(rows), count), -1)
    cosines = torch.full((len(rows), count), torch.nan, dtype=torch.float32)
    step = max(1, _COSINES_AT_ONCE // max(1, len(unit)))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        block = unit_rows[part] @ unit.T
        block[:, ~exists] = -torch.inf
        block[~has_direction[part]] = -torch.inf
        if but_itself:
            block.diagonal(start).fill_(-torch.inf)
        best = block.topk(min(count, len(unit)))
        found, width = best.values > -torch.inf, best.values.shape[1]
        numbers[part, :width] = best.indices.where(found, -1).cpu()
        cosines[part, :width] = best.values.clamp(-1, 1).where(found, torch.nan).cpu()
    return Nearest(numbers, cosines)


def _unit(rows: Float[Tensor, "rows dims"]) -> tuple[Tensor, Tensor]:
    """Return rows of length 1, or 0 where there is no direction, and which have one."""
    rows = rows.detach().float()
    norms = rows.norm(dim=1, keepdim=True)
    has_direction = (norms[:, 0] > 0) & norms[:, 0].isfinite()
    return (rows / norms).where(has_direction[:, None], 0), has_direction
