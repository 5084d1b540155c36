"""Sentence embeddings of texts that are compared again and again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from clipdissect.capture.text_embeddings import text_embeddings
from clipdissect.errors import MissingResource
from clipdissect.sentence import SentenceEncoder
from clipdissect.store import Store

Sentences = SentenceEncoder | MissingResource | None


@dataclass(frozen=True)
class Vectors:
    """Unit-length embeddings of texts.

    Args:
        rows: text to its row.
        matrix: `[texts, dims]`, float32.
    """

    rows: dict[str, int]
    matrix: Float[np.ndarray, "texts dims"]

    def of(self, texts: Iterable[str]) -> Float[np.ndarray, "texts dims"]:
        """Embeddings of texts in their order, float64, `[texts, dims]`."""
        return self.matrix[[self.rows[text] for text in texts]].astype(np.float64)

    def cosines(self, one: Sequence[str], other: Sequence[str]) -> Float[np.ndarray, " pairs"]:
        """Cosine of each pair of texts, `[pairs]`; NaN where the first is empty."""
        out = np.full(len(one), np.nan)
        pairs = [i for i, text in enumerate(one) if text]
        if pairs:
            left, right = (self.of(side[i] for i in pairs) for side in (one, other))
            out[pairs] = (left * right).sum(1)
        return out


def vectors(
    encoder: SentenceEncoder, sets: Iterable[Sequence[str]], store: Store | None,
    device: str = "cpu",
) -> Vectors:  # fmt: skip
    """Embeddings of several sets of texts, each kept in the store as a whole.

    Args:
        encoder: the sentence encoder.
        sets: texts; those that come again and again (class names, concepts) as one set each.
        store: keeps the embeddings; None computes every time.
        device: where the encoder runs.
    """
    rows: dict[str, int] = {}
    parts: list[Float[np.ndarray, "texts dims"]] = []
    for texts in sets:
        fresh = [text for text in dict.fromkeys(texts) if text]
        if not fresh:
            continue
        start = sum(map(len, parts))
        embeds = text_embeddings(encoder.embed, encoder.digest, fresh, store, device)
        parts.append(embeds.float().numpy())
        rows = {text: start + i for i, text in enumerate(fresh)} | rows  # the first set's counts
    matrix = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
    return Vectors(rows, matrix)
