"""ConSE: an image-text encoder from a classifier and a sentence encoder, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from clipdissect.datasets.class_names import imagenet_names
from clipdissect.encoder.batches import placed
from clipdissect.encoder.prompts import PromptEncoder, checked
from clipdissect.errors import DissectError
from clipdissect.models.sentence_transformers import SentenceEncoder, local, minilm, mpnet
from clipdissect.targets.efficientnet import build_model
from clipdissect.utils import hashing
from clipdissect.utils.hashing import Transform
from clipdissect.utils.short_repr import count, short_repr

NOTE = (
    "the encoder is ConSE, not CLIP: weaker, and blind to what ImageNet's 1000 classes don't "
    "cover; don't compare its numbers with the paper's"
)


@dataclass(frozen=True)
class ConSE:
    """Convex combination of semantic embeddings (Norouzi et al., 2014).

    An image embedding is the normalised sum, over the classifier's `top` most probable classes, of
    probability times the sentence embedding of the class name; a text embedding is its sentence
    embedding.

    Args:
        classifier: images to logits `[images, classes]`.
        class_names: in the order of the logits.
        top: number of classes in the sum.
    """

    name: str
    classifier: nn.Module
    preprocess: Transform
    class_names: tuple[str, ...]
    sentences: SentenceEncoder
    top: int = 10
    notes: tuple[str, ...] = (NOTE,)

    def __post_init__(self) -> None:
        if not 1 <= self.top <= len(self.class_names):
            raise DissectError(
                f"encoder.top is {self.top}; it must be 1 to {len(self.class_names)}"
            )

    def __repr__(self) -> str:
        return short_repr(self, count(len(self.class_names), "class name"))

    @property
    def image_network(self) -> nn.Module:
        return self.classifier

    @property
    def image_digest(self) -> str:
        parts = hashing.hash_model(self.classifier), self.class_names, self.text_digest, self.top
        return hashing.hash_values("conse 1", parts)

    @property
    def text_digest(self) -> str:
        return self.sentences.digest

    @property
    def context_length(self) -> int:
        return self.sentences.context_length

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return self.sentences.count_tokens(texts)

    def embed_images(
        self, images: Float[Tensor, "images channels h w"]
    ) -> Float[Tensor, "images d"]:
        logits = self.classifier(placed(self.classifier, images))
        probabilities, classes = logits.float().softmax(-1).topk(self.top)
        names = self._class_embeds.to(images.device)[classes]
        return F.normalize((probabilities.unsqueeze(-1) * names).sum(1), dim=-1)

    def embed_texts(self, texts: Sequence[str], device: str = "cpu") -> Float[Tensor, "texts d"]:
        return self.sentences.embed(texts, device)

    @cached_property
    def _class_embeds(self) -> Tensor:
        with torch.autocast("cpu", enabled=False):  # the capture pass may run in bf16
            return self.sentences.embed(self.class_names)


def conse(
    classifier: str = "efficientnet_lite2",
    sentence_encoder: str = "minilm",
    top: int = 10,
    image_size: int = 256,
    templates: Any = "none",
    long_texts: str = "report",
) -> PromptEncoder:
    """Return ConSE with packaged weights: EfficientNet-Lite2 and a sentence encoder.

    The image is not enlarged before the crop, unlike in the classifier's evaluation transform: on
    1000 ImageNet images with a shorter side of 256, Lite2 is then right for 87.9 % instead of
    86.8 %, and faster.

    Args:
        classifier: `efficientnet_lite0`, `efficientnet_lite1` or `efficientnet_lite2`.
        sentence_encoder: `minilm` (packaged), `mpnet`, or a sentence-transformers folder.
        top: number of classes in the sum.
        image_size: shorter side and center crop, in pixels.
        templates: prompt templates: `none`, `openai`, `imagenet_short`, or a list of texts with
            `{}`. They apply to the concepts, not to the class names.
        long_texts: `report` or `error`, for texts beyond the context length.

    Raises:
        MissingResource: the weights are not installed.
        DissectError: unknown names, `top` outside 1..1000, or wrong templates.
    """
    prompting = checked(templates, long_texts)
    if image_size < 32:
        raise DissectError(f"encoder.image_size is {image_size}; it must be at least 32")
    model, _ = build_model(classifier)
    named = {"minilm": minilm, "mpnet": mpnet}
    texts = named[sentence_encoder]() if sentence_encoder in named else local(sentence_encoder)
    name = f"conse({classifier}+{texts.name})"
    encoder = ConSE(name, model, whole_image(image_size), imagenet_names(), texts, top)
    return PromptEncoder(encoder, *prompting)


def whole_image(size: int) -> Transform:
    """Return a transform: shorter side to `size` (bicubic), center crop, scale to -1..1."""
    from torchvision import transforms

    steps = [
        transforms.Resize(size, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(size),
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3),
    ]
    composed: Transform = transforms.Compose(steps)
    return composed
