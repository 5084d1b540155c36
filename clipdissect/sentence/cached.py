"""A sentence encoder that embeds no text twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.models.sentence_transformers import SentenceEncoder


@dataclass(frozen=True)
class CachedSentenceEncoder:
    """A sentence encoder that caches embeddings in memory.

    A text keeps its first embedding; in which batch it was computed changes its last digit.
    """

    encoder: SentenceEncoder
    known: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def digest(self) -> str:
        return self.encoder.digest

    @property
    def context_length(self) -> int:
        return self.encoder.context_length

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.encoder.count_tokens(texts)

    def knows(self, texts: Sequence[str]) -> bool:
        """Whether all embeddings are in memory."""
        return all(text in self.known for text in texts)

    def learn(self, texts: Sequence[str], embeds: Float[Tensor, "texts dims"]) -> None:
        """Keep embeddings that were computed before, except of known texts."""
        for text, embed in zip(texts, embeds, strict=True):
            self.known.setdefault(text, embed)

    def embed(self, texts: Sequence[str], device: str = "cpu") -> Float[Tensor, "texts dims"]:
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new:
            self.known.update(zip(new, self.encoder.embed(new, device), strict=True))
        return torch.stack([self.known[text] for text in texts])
