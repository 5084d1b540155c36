"""What an image-text encoder has to offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from clipdissect.utils.hashing import Transform


@runtime_checkable
class Encoder(Protocol):
    """`E_I` and `E_T`: images and texts to vectors of one space.

    Any object with these attributes will do. Embeddings have unit length. The digests stand in
    the store's keys: they must change whenever the embeddings would.
    """

    @property
    def name(self) -> str:
        """What to call it in results."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results must know about it."""
        ...

    @property
    def preprocess(self) -> Transform:
        """PIL image to its input `[channels, h, w]`."""
        ...

    @property
    def image_digest(self) -> str:
        """Changes with anything that image embeddings depend on, but for the preprocessing."""
        ...

    @property
    def text_digest(self) -> str:
        """Changes with anything that text embeddings depend on."""
        ...

    def embed_images(
        self, images: Float[Tensor, "images channels h w"]
    ) -> Float[Tensor, "images d"]:
        """Embeddings of preprocessed images, on the images' device (move the network there)."""
        ...

    def embed_texts(self, texts: Sequence[str], device: str) -> Float[Tensor, "texts d"]:
        """Embeddings of texts, float32, on the CPU."""
        ...


class CountingEncoder(Encoder, Protocol):
    """An encoder that can tell which texts are too long for it; a plain one needn't."""

    @property
    def context_length(self) -> int:
        """Tokens that its text network takes, the special ones among them."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before any are cut off, with the special ones."""
        ...
