"""Text embeddings, cached in the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.store import Entry, Store
from clipdissect.utils import hashing
from clipdissect.utils.memory import kept_memory

VERSION = 1  # part of the cache key: increment it when the same texts get other embeddings


def text_embeddings(
    embed: Callable[[Sequence[str], str], Tensor],
    encoder_digest: str,
    texts: Sequence[str],
    store: Store | None,
    device: str = "cpu",
) -> Float[Tensor, "texts dims"]:
    """Return embeddings by `embed`, cached under a key made from `encoder_digest`."""

    def compute() -> Tensor:
        with kept_memory(device):
            return embed(texts, device)

    if store is None:
        return compute()
    kind = torch.device(device).type
    key = hashing.hash_values(
        "text embeds", VERSION, torch.__version__, encoder_digest, kind, list(texts)
    )

    def entry() -> Entry:
        return Entry({"values": compute()}, {"what": "text embeddings", "texts": len(texts)})

    return store.get_or_compute(key, entry).arrays["values"]
