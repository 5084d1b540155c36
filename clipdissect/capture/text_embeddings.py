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
    precision: str = "fp32",
) -> Float[Tensor, "texts dims"]:
    """Return embeddings by `embed`, cached under a key made from `encoder_digest`.

    Args:
        precision: `fp32` or `bf16` (autocast); see `Settings.text_precision`.
    """
    kind = torch.device(device).type

    def compute() -> Tensor:
        is_half = precision == "bf16"
        with kept_memory(device), torch.autocast(kind, torch.bfloat16, enabled=is_half):
            return embed(texts, device)

    if store is None:
        return compute()
    key = _key(encoder_digest, texts, device, precision)

    def entry() -> Entry:
        return Entry({"values": compute()}, {"what": "text embeddings", "texts": len(texts)})

    return store.get_or_compute(key, entry).arrays["values"]


def stored_text_embeddings(
    encoder_digest: str, texts: Sequence[str], store: Store, device: str = "cpu"
) -> Float[Tensor, "texts dims"] | None:
    """Return the float32 embeddings of these texts if the store has them."""
    entry = store.get(_key(encoder_digest, texts, device, "fp32"))
    return None if entry is None else entry.arrays["values"]


def _key(encoder_digest: str, texts: Sequence[str], device: str, precision: str) -> str:
    kind = torch.device(device).type
    how = kind if precision == "fp32" else f"{kind} {precision}"
    return hashing.hash_values(
        "text embeds", VERSION, torch.__version__, encoder_digest, how, list(texts)
    )
