"""Latents with similar directions in the decoder of a sparse autoencoder."""

from __future__ import annotations

import torch

from clipdissect.sae.base import Sae
from clipdissect.sae.directions import Nearest, nearest
from clipdissect.store import Entry, Store
from clipdissect.utils import hashing
from clipdissect.utils.fingerprint import hash_elements

VERSION = 1  # raise it when the numbers change
WHAT = "decoder neighbours"  # description of such an entry in listings
NEIGHBOURS = 5  # per latent


def stored_neighbours(sae: Sae, device: str, store: Store | None) -> Nearest | None:
    """Return each latent's nearest others by decoder rows, cached; None without a decoder."""
    decoder = sae.decoder
    if decoder is None:
        return None

    def compute() -> Nearest:
        rows = decoder.to(device)
        return nearest(rows, rows, NEIGHBOURS, but_itself=True)

    def entry() -> Entry:
        return Entry(vars(compute()), {"what": WHAT, "of": sae.name})

    if store is None:
        return compute()
    parts = list(decoder.shape), str(decoder.dtype), hash_elements(decoder), NEIGHBOURS
    key = hashing.hash_values(WHAT, VERSION, torch.device(device).type, *parts)
    return Nearest(**store.get_or_compute(key, entry).arrays)
