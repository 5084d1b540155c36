"""Nearest directions by cosine, such as decoder rows of latents and text embeddings."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

_COSINES_AT_ONCE = 1 << 25  # 128 MB


def largest_cosines(
    rows: Float[Tensor, "rows dims"],
    directions: Float[Tensor, "directions dims"],
    count: int,
    but_itself: bool = False,
) -> tuple[Float[Tensor, "rows count"], Int[Tensor, "rows count"]]:
    """Return each row's largest cosines with the directions, on the CPU, and their numbers.

    Rows or directions of length 0 have cosine 0. With `but_itself`, row i isn't compared with
    direction i.
    """
    count = min(count, len(directions) - but_itself)
    directions = F.normalize(directions.to(rows.device, torch.float32), dim=1)
    cosines, numbers = [], []
    step = max(1, _COSINES_AT_ONCE // len(directions))
    for start in range(0, len(rows), step):
        part = F.normalize(rows[start : start + step].float(), dim=1) @ directions.T
        if but_itself:
            part.diagonal(start).fill_(-torch.inf)
        best = part.topk(count, dim=1)
        cosines.append(best.values.cpu())
        numbers.append(best.indices.cpu())
    return torch.cat(cosines), torch.cat(numbers)
