"""Embedding texts a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from clipdissect.utils.progress import progress

CHUNK = 4096  # texts that are tokenised at once; sorted by length within
# Tokens of a batch: a CPU is fastest where the activations fit its caches, a GPU where all of it
# works.
TOKENS_ON_CPU, TOKENS = 2048, 65536

Tokens = Mapping[str, Tensor]


def placed(model: nn.Module, images: Tensor) -> Tensor:
    """Move a network to the images' device; return the images in its dtype."""
    model.to(images.device)
    return images.to(floating(model, images).dtype)


def floating(model: nn.Module, otherwise: Tensor) -> Tensor:
    """Return a network's first floating-point parameter, or `otherwise`."""
    found = [p for p in model.parameters() if p.is_floating_point()]
    # Norms may have another type than the layers.
    return next((p for p in found if p.ndim > 1), found[0] if found else otherwise)


@torch.no_grad()
def in_batches(
    texts: Sequence[str],
    tokenize: Callable[[list[str]], Tokens],
    lengths: Callable[[Tokens], Int[Tensor, " texts"]],
    encode: Callable[[Tokens], Float[Tensor, "some d"]],
    device: str,
) -> Float[Tensor, "texts d"]:
    """Embed texts in batches of similar length; return unit vectors, float32, on the CPU.

    Args:
        tokenize: texts to tokens on the CPU, padded on the right to one length.
        lengths: tokens of each text that the network needs; `encode` gets no more than those of
            the batch's longest text.
        encode: tokens on the device to embeddings.
    """
    places, vectors = [], []
    most = TOKENS_ON_CPU if torch.device(device).type == "cpu" else TOKENS
    with progress(len(texts), "texts", "texts") as bar:
        for start in range(0, len(texts), CHUNK):
            tokens = tokenize(list(texts[start : start + CHUNK]))
            needed, order = lengths(tokens).sort(stable=True)
            places.append(start + order)
            # One copy for many batches: a copy of each would wait for the one before.
            moved = {name: _moved(values[order], device) for name, values in tokens.items()}
            for rows in _batches(needed.tolist(), most):
                longest = int(needed[rows.stop - 1])
                some = {name: values[rows, :longest] for name, values in moved.items()}
                vectors.append(F.normalize(encode(some).float(), dim=-1))
                bar.update(rows.stop - rows.start)
    found = torch.cat(vectors).cpu()
    embeds = torch.empty_like(found)
    embeds[torch.cat(places)] = found
    return embeds


def _batches(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Yield batches of at most `most` tokens, or of one text; `lengths` ascend."""
    start = 0
    for stop in range(1, len(lengths) + 1):
        if stop == len(lengths) or (stop + 1 - start) * lengths[stop] > most:
            yield slice(start, stop)
            start = stop


def _moved(tokens: Tensor, device: str) -> Tensor:
    if torch.device(device).type == "cuda":
        return tokens.pin_memory().to(device, non_blocking=True)
    return tokens.to(device)
