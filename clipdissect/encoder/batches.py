"""Embedding texts a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

TEXT_BATCH = 256


def placed(model: nn.Module, images: Tensor) -> Tensor:
    """Move a network to the images' device; return the images in its dtype."""
    model.to(images.device)
    return images.to(floating(model, images).dtype)


def floating(model: nn.Module, otherwise: Tensor) -> Tensor:
    """Return a network's first floating-point parameter, or `otherwise`."""
    return next((p for p in model.parameters() if p.is_floating_point()), otherwise)


@torch.no_grad()
def in_batches(
    embed: Callable[[list[str]], Tensor], texts: Sequence[str]
) -> Float[Tensor, "texts d"]:
    """Embed texts in batches; return unit vectors, float32, on the CPU."""
    starts = tqdm(range(0, len(texts), TEXT_BATCH), "texts", disable=None, leave=False)
    blocks = []
    for start in starts:
        vectors = embed(list(texts[start : start + TEXT_BATCH]))
        blocks.append(F.normalize(vectors.float(), dim=-1).cpu())
    return torch.cat(blocks)
