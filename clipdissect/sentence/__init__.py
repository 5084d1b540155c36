"""Sentence encoders: texts to vectors, for metrics and for the ConSE encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipdissect.models.sentence_transformers import SentenceEncoder, local, minilm, mpnet
from clipdissect.sentence.cached import CachedSentenceEncoder
from clipdissect.sentence.clip import clip_text
from clipdissect.utils import registry

OPTIONS: dict[str, Callable[..., SentenceEncoder]] = {
    "clip_text": clip_text,
    "local": local,
    "minilm": minilm,
    "mpnet": mpnet,
}

__all__ = ["OPTIONS", "CachedSentenceEncoder", "SentenceEncoder", "build", "local"]


def build(name: str, **parameters: Any) -> SentenceEncoder:
    """Return the sentence encoder of that name.

    Raises:
        DissectError: unknown name or parameter; lists the valid ones.
    """
    encoder: SentenceEncoder = registry.build("sentence encoder", OPTIONS, name, parameters)
    return encoder
