"""What an image-text encoder has to offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from clipdissect.utils.hashing import Transform


@runtime_checkable
class Encoder(Protocol):
    """An image-text encoder: images and texts to unit vectors of one space.

    Any object with these attributes will do. The digests are part of cache keys: they must change
    whenever the embeddings would. An attribute `image_network` that holds the network of images
    lets `capture.precision=bf16_weights` convert it.
    """

    @property
    def name(self) -> str:
        """Return the name used in results."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Return caveats to record with the results."""
        ...

    @property
    def preprocess(self) -> Transform:
        """Return the transform from a PIL image to the input `[channels, h, w]`."""
        ...

    @property
    def image_digest(self) -> str:
        """Return a digest of all that image embeddings depend on, except the preprocessing."""
        ...

    @property
    def text_digest(self) -> str:
        """Return a digest of all that text embeddings depend on."""
        ...

    def embed_images(
        self, images: Float[Tensor, "images channels h w"]
    ) -> Float[Tensor, "images d"]:
        """Embed preprocessed images on the images' device, moving the network there."""
        ...

    def embed_texts(self, texts: Sequence[str], device: str) -> Float[Tensor, "texts d"]:
        """Embed texts; float32, on the CPU."""
        ...


class CountingEncoder(Encoder, Protocol):
    """An encoder that counts tokens, so that truncated texts are reported."""

    @property
    def context_length(self) -> int:
        """Return the context length in tokens, special tokens included."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text before truncation, special tokens included."""
        ...
