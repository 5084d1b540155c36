"""Text embeddings, kept in the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.store import Entry, Store
from clipdissect.utils import hashing

# Raise it when the code that computes text embeddings changes their values.
VERSION = 1

Embed = Callable[[Sequence[str], str], Tensor]


def text_embeddings(
    embed: Embed, encoder_digest: str, texts: Sequence[str], store: Store | None,
    device: str = "cpu",
) -> Float[Tensor, "texts dims"]:  # fmt: skip
    """Embeddings of texts, `[texts, dims]`, from the store where it has them.

    Args:
        embed: computes them, of texts and the device.
        encoder_digest: changes whenever `embed` would return something else.
        texts: what to embed.
        store: None computes every time.
        device: where to compute them; its kind is part of the key.
    """
    kind = torch.device(device).type
    key = hashing.hash_values(
        "text embeds", VERSION, torch.__version__, encoder_digest, kind, list(texts)
    )
    found = store.get(key) if store else None
    if found is not None:
        return found.arrays["values"]
    if store is None:
        return embed(texts, device)
    with store.locked([key]):
        found = store.get(key)  # another process may have been faster
        if found is not None:
            return found.arrays["values"]
        values = embed(texts, device)
        store.put(key, Entry({"values": values}, {"what": "text embeddings", "texts": len(texts)}))
    return values
