"""An encoder whose networks are built at its first use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from clipdissect.encoder.base import CountingEncoder, Encoder
from clipdissect.encoder.prompts import PromptEncoder
from clipdissect.models.remembered import Facts, Remembered
from clipdissect.utils import hashing
from clipdissect.utils.hashing import Transform
from clipdissect.utils.short_repr import short_repr


@dataclass(frozen=True, repr=False, eq=False)
class LazyEncoder:
    """An encoder with remembered facts. Its network is the library's own: nobody changes it."""

    source: Remembered[PromptEncoder]

    def __repr__(self) -> str:
        return short_repr(self)

    @property
    def built(self) -> CountingEncoder:
        return self.source.built.encoder

    @property
    def name(self) -> str:
        return str(self.source.facts["name"])

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.source.facts["notes"])

    @property
    def context_length(self) -> int:
        return int(self.source.facts["context_length"])

    @property
    def image_digest(self) -> str:
        return str(self.source.facts["image_digest"])

    @property
    def text_digest(self) -> str:
        return str(self.source.facts["text_digest"])

    @property
    def preprocess_digest(self) -> str:
        return str(self.source.facts["preprocess"])

    @property
    def preprocess(self) -> Transform:
        return self.built.preprocess

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.built.count_tokens(texts)

    def embed_images(
        self, images: Float[Tensor, "images channels h w"]
    ) -> Float[Tensor, "images d"]:
        return self.built.embed_images(images)

    def embed_texts(self, texts: Sequence[str], device: str = "cpu") -> Float[Tensor, "texts d"]:
        return self.built.embed_texts(texts, device)


def lazy(source: Remembered[PromptEncoder]) -> PromptEncoder:
    facts = source.facts
    return PromptEncoder(LazyEncoder(source), tuple(facts["templates"]), facts["long_texts"])


def preprocess_digest(encoder: Encoder) -> str:
    """Return the digest of an encoder's preprocessing, remembered or computed."""
    inner = encoder.encoder if isinstance(encoder, PromptEncoder) else encoder
    if isinstance(inner, LazyEncoder):
        return inner.preprocess_digest
    return hashing.hash_transform(encoder.preprocess)


def facts_of(prompted: PromptEncoder) -> Facts:
    """Return the facts of an encoder that a run on stored features needs, JSON-able."""
    encoder = prompted.encoder
    return {
        "name": encoder.name,
        "notes": encoder.notes,
        "context_length": encoder.context_length,
        "image_digest": encoder.image_digest,
        "text_digest": encoder.text_digest,
        "preprocess": hashing.hash_transform(encoder.preprocess),
        "templates": prompted.templates,
        "long_texts": prompted.long_texts,
    }


def networks_of(prompted: PromptEncoder) -> Iterator[nn.Module]:
    yield from (part for part in _fields(prompted.encoder) if isinstance(part, nn.Module))


def _fields(encoder: Any) -> list[Any]:
    return list(vars(encoder).values())
