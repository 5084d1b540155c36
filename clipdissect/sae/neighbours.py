"""Latents with similar directions in the decoder of a sparse autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.sae.base import Sae
from clipdissect.store import Entry, Store
from clipdissect.utils import hashing
from clipdissect.utils.fingerprint import hash_elements

VERSION = 1  # raise it when the numbers change
WHAT = "decoder neighbours"  # description of such an entry in listings
NEIGHBOURS = 5  # per latent
_COSINES_AT_ONCE = 1 << 25  # 128 MB; all cosines of 65,536 latents would take 17 GB


@dataclass(frozen=True)
class Neighbours:
    """Each latent's nearest other latents by the cosine of decoder rows, largest first.

    A latent without a direction (a row of zeros) has none and is nobody's: number -1, cosine NaN.
    """

    latents: Int[Tensor, "latents k"]
    cosines: Float[Tensor, "latents k"]

    @property
    def as_lists(self) -> list[list[tuple[int, float]]]:
        """Return `(latent, cosine)` per latent, without missing ones."""
        pairs = zip(self.latents.tolist(), self.cosines.tolist(), strict=True)
        return [[(n, c) for n, c in zip(*row, strict=True) if n >= 0] for row in pairs]


def stored_neighbours(sae: Sae, device: str, store: Store | None) -> Neighbours | None:
    """Return an autoencoder's neighbours, read from the store if cached; None without a decoder."""
    decoder = sae.decoder
    if decoder is None:
        return None
    if store is None:
        return decoder_neighbours(decoder, NEIGHBOURS, device)

    def compute() -> Entry:
        computed = decoder_neighbours(decoder, NEIGHBOURS, device)
        arrays = {"latents": computed.latents, "cosines": computed.cosines}
        return Entry(arrays, {"what": WHAT, "of": sae.name})

    parts = list(decoder.shape), str(decoder.dtype), hash_elements(decoder), NEIGHBOURS
    key = hashing.hash_values(WHAT, VERSION, torch.device(device).type, *parts)
    return Neighbours(**store.get_or_compute(key, compute).arrays)


@torch.no_grad()
def decoder_neighbours(
    decoder: Float[Tensor, "latents inputs"], count: int, device: str = "cpu"
) -> Neighbours:
    """Find each latent's `count` nearest others, in blocks that need no `[latents, latents]`."""
    rows = decoder.detach().to(device, torch.float32)
    norms = rows.norm(dim=1, keepdim=True)
    has_direction = (norms[:, 0] > 0) & norms[:, 0].isfinite()
    missing = (~has_direction).nonzero()[:, 0]
    directions = (rows / norms).where(has_direction[:, None], 0)
    size = len(rows)
    latents = torch.full((size, count), -1, device=device)
    cosines = torch.full((size, count), torch.nan, dtype=torch.float32, device=device)
    step = max(1, _COSINES_AT_ONCE // max(1, size))
    for start in range(0, size, step):
        block = directions[start : start + step] @ directions.T
        block[:, missing] = -torch.inf
        block.diagonal(start).fill_(-torch.inf)  # not a neighbour of itself
        best = block.topk(min(count, size))
        units, found = slice(start, start + len(block)), best.values.shape[1]
        exists = (best.values > -torch.inf) & has_direction[units, None]
        latents[units, :found] = best.indices.where(exists, -1)
        cosines[units, :found] = best.values.clamp(-1, 1).where(exists, torch.nan)
    return Neighbours(latents.cpu(), cosines.cpu())
