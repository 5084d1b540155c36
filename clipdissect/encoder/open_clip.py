"""CLIP and its kin through open_clip."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from clipdissect import digest
from clipdissect.digest import Transform
from clipdissect.errors import DissectError, MissingResource, unknown

TEXT_BATCH = 256


@dataclass(frozen=True)
class OpenClip:
    """An open_clip model with its own preprocessing and tokenizer.

    Args:
        name: what to call it in results.
        model: has `encode_image` and `encode_text`.
        preprocess: PIL image to the model's input.
        tokenizer: texts to tokens `[texts, context]`.
    """

    name: str
    model: nn.Module
    preprocess: Transform
    tokenizer: Any
    notes: tuple[str, ...] = ()

    @property
    def image_digest(self) -> str:
        """Changes with the model's weights and code."""
        return digest.of_model(self.model)

    @property
    def text_digest(self) -> str:
        """Changes with the model's weights and code and with the tokenizer's behaviour."""
        tokens = self.tokenizer(["A photo of 3 cats, isn't it?", "naïve café"])
        return digest.of("open_clip text 1", self.image_digest, tokens.tolist())

    def embed_images(
        self, images: Float[Tensor, "images channels h w"]
    ) -> Float[Tensor, "images d"]:
        """Unit-length image embeddings, `[images, dims]`."""
        encode: Any = self.model.to(images.device).encode_image
        return F.normalize(encode(images).float(), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str], device: str = "cpu") -> Float[Tensor, "texts d"]:
        """Unit-length text embeddings, `[texts, dims]`, without a prompt template, as the paper."""
        model: Any = self.model.to(device)
        starts = tqdm(range(0, len(texts), TEXT_BATCH), "texts", disable=None, leave=False)
        blocks = [
            model.encode_text(self.tokenizer(list(texts[i : i + TEXT_BATCH])).to(device)).float()
            for i in starts
        ]
        return F.normalize(torch.cat(blocks), dim=-1).cpu()


def open_clip(
    model: str = "ViT-B-16-quickgelu", pretrained: str = "openai", cache: str | None = None
) -> OpenClip:
    """Any open_clip model.

    Args:
        model: such as `ViT-B-16-quickgelu`, or `local-dir:<folder>`.
        pretrained: the weights' tag, or a local checkpoint file; ignored with `local-dir:`.
        cache: folder of downloaded weights; the hub's own by default.

    Raises:
        MissingResource: the weights are neither cached nor to be downloaded.
        DissectError: unknown model or tag, weights made for the other activation function, or a
            checkpoint that doesn't fit.
    """
    import open_clip as library

    is_local = model.startswith("local-dir:")
    tag = None if is_local else pretrained
    if not is_local:
        _check_names(library, model, pretrained)
    try:
        with _quiet():
            network, _, preprocess = library.create_model_and_transforms(
                model, pretrained=tag, cache_dir=cache, require_pretrained=True
            )
    except Exception as error:  # open_clip words a missing download and a wrong shape alike
        if not is_local and not Path(pretrained).is_file():
            raise _missing(model, pretrained, cache) from error
        first = " ".join(str(error).split())[:300]
        raise DissectError(f"the weights {pretrained} don't fit {model}: {first}") from error
    tokenizer = library.get_tokenizer(model)
    return OpenClip(f"{model}/{pretrained}", network.eval(), preprocess, tokenizer)


def clip_vit_b16(checkpoint: str | None = None, cache: str | None = None) -> OpenClip:
    """The paper's encoder: OpenAI's CLIP ViT-B/16.

    open_clip's plain `ViT-B-16` has another activation function than OpenAI's weights.

    Args:
        checkpoint: a local checkpoint file instead of the download.
        cache: folder of downloaded weights; the hub's own by default.

    Raises:
        MissingResource: the weights are neither cached nor to be downloaded.
    """
    return open_clip("ViT-B-16-quickgelu", checkpoint or "openai", cache)


def _check_names(library: Any, model: str, pretrained: str) -> None:
    if model not in library.list_models():
        raise unknown("open_clip model", model, library.list_models())
    if Path(pretrained).is_file():
        return
    tags = library.list_pretrained_tags_by_model(model)
    if pretrained not in tags:
        raise unknown(f"open_clip weights of {model} (nor is it a file)", pretrained, tags)
    trained_quick = bool(library.get_pretrained_cfg(model, pretrained).get("quick_gelu", False))
    builds_quick = bool((library.get_model_config(model) or {}).get("quick_gelu", False))
    if trained_quick != builds_quick:
        other = f"{model}-quickgelu" if trained_quick else model.removesuffix("-quickgelu")
        raise DissectError(
            f"the weights {pretrained} were trained with another activation function than {model} "
            f"has: use model={other}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    # open_clip speaks through the root logger, and what it warns of is raised here in our words.
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)


def _missing(model: str, pretrained: str, cache: str | None) -> MissingResource:
    from huggingface_hub import constants

    return MissingResource(
        f"the image-text encoder {model} ({pretrained})",
        [cache or constants.HF_HUB_CACHE, "the model hub"],
        "where there is a network, unset HF_HUB_OFFLINE; where there is none, give a local file "
        "(encoder.checkpoint of clip_vit_b16, encoder.pretrained of open_clip), or use "
        "profile=offline (encoder=conse)",
    )
