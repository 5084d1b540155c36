"""The text network of an image-text encoder as a sentence encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from clipdissect.errors import MissingResource

if TYPE_CHECKING:  # encoders are built from sentence encoders
    from clipdissect.encoder.prompts import PromptEncoder


@dataclass(frozen=True)
class TextNetwork:
    """An image-text encoder's texts.

    Args:
        name: what to call it; metrics carry it (`clip_vit_b16_cos`).
        encoder: the encoder.
    """

    name: str
    encoder: PromptEncoder

    @cached_property
    def digest(self) -> str:
        """Changes with the encoder's weights and tokenizer."""
        return self.encoder.text_digest

    @property
    def context_length(self) -> int:
        """Tokens that the network takes."""
        return self.encoder.context_length

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, with the special ones."""
        return self.encoder.count_tokens(texts)

    def embed(self, texts: Sequence[str], device: str = "cpu") -> Float[Tensor, "texts dims"]:
        """Unit-length embeddings, float32, on the CPU, `[texts, dims]`."""
        return self.encoder.embed_texts(texts, device)


def clip_text(encoder: str = "clip_vit_b16", parameters: Any = None) -> TextNetwork:
    """CLIP's text network, for the paper's "CLIP cos" (Sec. 4.2): ViT-B/16, no prompt template.

    Args:
        encoder: an encoder's name; metrics carry it.
        parameters: a mapping of that encoder's parameters, such as `{checkpoint: /path}`.

    Raises:
        MissingResource: the encoder's weights are neither local nor to be downloaded.
        DissectError: unknown encoder or parameter.
    """
    from clipdissect.encoder import build

    try:
        return TextNetwork(encoder, build(encoder, **(parameters or {})))
    except MissingResource as error:
        raise MissingResource(
            error.what,
            error.looked,
            f"sentence.parameters={{checkpoint: /path}} where it is local, or use sentence=minilm; "
            f"{error.remedy}",
        ) from error
