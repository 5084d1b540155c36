"""Text embeddings, cached in the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.store import Entry, Store
from clipdissect.utils import hashing

VERSION = 1  # part of the cache key: increment it when the same texts get other embeddings


def text_embeddings(
    embed: Callable[[Sequence[str], str], Tensor],
    encoder_digest: str,
    texts: Sequence[str],
    store: Store | None,
    device: str = "cpu",
) -> Float[Tensor, "texts dims"]:
    """Return embeddings by `embed`, cached under a key made from `encoder_digest`."""
    if store is None:
        return embed(texts, device)
    key = _key(encoder_digest, texts, device)

    def compute() -> Entry:
        about = {"what": "text embeddings", "texts": len(texts)}
        return Entry({"values": embed(texts, device)}, about)

    return store.get_or_compute(key, compute).arrays["values"]


def stored_text_embeddings(
    encoder_digest: str, texts: Sequence[str], store: Store, device: str = "cpu"
) -> Float[Tensor, "texts dims"] | None:
    """Return the embeddings of these texts if the store has them."""
    entry = store.get(_key(encoder_digest, texts, device))
    return None if entry is None else entry.arrays["values"]


def _key(encoder_digest: str, texts: Sequence[str], device: str) -> str:
    kind = torch.device(device).type
    return hashing.hash_values(
        "text embeds", VERSION, torch.__version__, encoder_digest, kind, list(texts)
    )
