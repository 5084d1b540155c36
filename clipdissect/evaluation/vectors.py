"""Sentence embeddings of labels, concepts and class names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from clipdissect.capture.text_embeddings import stored_text_embeddings, text_embeddings
from clipdissect.errors import MissingResource
from clipdissect.sentence import CachedSentenceEncoder, SentenceEncoder
from clipdissect.store import Store

Sentences = SentenceEncoder | MissingResource | None


@dataclass(frozen=True)
class Vectors:
    """Unit-length float32 embeddings of texts; `rows` maps a text to its row."""

    rows: dict[str, int]
    matrix: Float[np.ndarray, "texts dims"]

    def of(self, texts: Iterable[str]) -> Float[np.ndarray, "texts dims"]:
        """Return the embeddings of texts in their order, as float64."""
        return self.matrix[[self.rows[text] for text in texts]].astype(np.float64)

    def cosines(self, first: Sequence[str], second: Sequence[str]) -> Float[np.ndarray, " pairs"]:
        """Compute the cosine of each pair of texts; NaN where the first is empty."""
        out = np.full(len(first), np.nan)
        pairs = [i for i, text in enumerate(first) if text]
        if pairs:
            left, right = (self.of(side[i] for i in pairs) for side in (first, second))
            out[pairs] = (left * right).sum(1)
        return out


def vectors(
    encoder: SentenceEncoder,
    sets: Iterable[Sequence[str]],
    store: Store | None,
    device: str = "cpu",
) -> Vectors:
    """Embed several sets of texts; each set is one entry of the store.

    Texts that recur in other runs (class names, concepts) should be a set of their own.
    """
    rows: dict[str, int] = {}
    parts: list[Float[np.ndarray, "texts dims"]] = []
    for texts in sets:
        fresh = [text for text in dict.fromkeys(texts) if text]
        if not fresh:
            continue
        start = sum(map(len, parts))
        embeds = _embeddings(encoder, fresh, store, device)
        parts.append(embeds.float().numpy())
        rows = {text: start + i for i, text in enumerate(fresh)} | rows  # the first set wins
    matrix = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
    return Vectors(rows, matrix)


def learn_stored(
    sentences: Sentences, texts: Sequence[str], store: Store | None, device: str = "cpu"
) -> None:
    """Take texts' embeddings from the store if it has them, so that a search embeds no label."""
    if store is None or not isinstance(sentences, CachedSentenceEncoder) or sentences.knows(texts):
        return
    embeds = stored_text_embeddings(sentences.digest, texts, store, device)
    if embeds is not None:
        sentences.learn(texts, embeds)


def _embeddings(
    encoder: SentenceEncoder, texts: Sequence[str], store: Store | None, device: str
) -> Float[Tensor, "texts dims"]:
    if not isinstance(encoder, CachedSentenceEncoder):
        return text_embeddings(encoder.embed, encoder.digest, texts, store, device)
    if encoder.knows(texts):  # an entry for each of a search's sets of labels would fill the store
        return encoder.embed(texts, device)
    embeds = text_embeddings(encoder.embed, encoder.digest, texts, store, device)
    encoder.learn(texts, embeds)
    return embeds
