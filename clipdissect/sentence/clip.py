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
    """The text network of an image-text encoder as a sentence encoder."""

    name: str
    encoder: PromptEncoder

    @cached_property
    def digest(self) -> str:
        return self.encoder.text_digest

    @property
    def context_length(self) -> int:
        return self.encoder.context_length

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.encoder.count_tokens(texts)

    def embed(self, texts: Sequence[str], device: str = "cpu") -> Float[Tensor, "texts dims"]:
        return self.encoder.embed_texts(texts, device)


def clip_text(encoder: str = "clip_vit_b16", parameters: Any = None) -> TextNetwork:
    """Return CLIP's text network, for the paper's "CLIP cos" (Sec. 4.2): ViT-B/16, no template.

    Args:
        encoder: an encoder's name; metrics carry it.
        parameters: that encoder's parameters, such as `{checkpoint: /path}`.

    Raises:
        MissingResource: the encoder's weights are neither local nor downloadable.
        DissectError: unknown encoder or parameter.
    """
    from clipdissect.encoder import lazily

    try:
        return TextNetwork(encoder, lazily(encoder, **(parameters or {})))
    except MissingResource as error:
        raise MissingResource(
            error.what,
            error.looked,
            f"sentence.parameters={{checkpoint: /path}} where it is local, or use sentence=minilm; "
            f"{error.remedy}",
        ) from error
