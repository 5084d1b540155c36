"""Image-text models of transformers, such as CLIPModel and SiglipModel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from clipdissect.encoder.batches import Tokens, in_batches, placed
from clipdissect.encoder.prompts import PromptEncoder, checked
from clipdissect.errors import DissectError, MissingResource, one_line
from clipdissect.images.image_processor import ImageProcessor
from clipdissect.models import hub, tokenizers
from clipdissect.utils import hashing
from clipdissect.utils.dependencies import depends_on, depends_on_more
from clipdissect.utils.hashing import Transform

# Buffers that old checkpoints hold and that networks now make themselves.
_HARMLESS = ("position_ids",)
# What a tokenizer leaves to its caller: see `_text_rules`.
LOWER, NO_MASK = "lower case", "no attention mask"
# Models whose tokens don't see what the attention mask leaves out, and that pool none of it.
_IGNORE_PADDING = ("clip", "metaclip_2", "clipseg", "altclip", "chinese_clip", "blip")


@dataclass(frozen=True)
class HFImageText:
    """A model of transformers with `get_image_features` and `get_text_features`.

    Args:
        name: what to call it in results.
        model: the model.
        preprocess: PIL image to the model's input.
        tokenizer: from `AutoTokenizer`.
        context_length: tokens that the text network takes.
        notes: what a reader of the results must know about it.
        text_rules: `LOWER` and `NO_MASK`, where the model wants them and the tokenizer doesn't see
            to it.
    """

    name: str
    model: nn.Module
    preprocess: Transform
    tokenizer: Any
    context_length: int
    notes: tuple[str, ...] = ()
    text_rules: tuple[str, ...] = ()

    @property
    def image_network(self) -> nn.Module:
        return self.model

    @property
    def image_digest(self) -> str:
        return hashing.hash_model(self.model)

    @property
    def text_digest(self) -> str:
        parts = self.image_digest, self._tokenizer_digest
        return hashing.hash_values("hf text 2", *parts, *self.text_rules)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return tokenizers.count_hf(self.tokenizer, self._cleaned(texts))

    def embed_images(
        self, images: Float[Tensor, "images channels h w"]
    ) -> Float[Tensor, "images d"]:
        features: Any = self.model.get_image_features
        images = placed(self.model, images)
        return F.normalize(_vectors(features(pixel_values=images)).float(), dim=-1)

    def embed_texts(self, texts: Sequence[str], device: str = "cpu") -> Float[Tensor, "texts d"]:
        features: Any = self.model.to(device).get_text_features
        encode = lambda tokens: _vectors(features(**tokens))  # noqa: E731
        return in_batches(texts, self._tokens, self._lengths, encode, device)

    def _lengths(self, tokens: Tokens) -> Int[Tensor, " texts"]:
        """Return the tokens of each text, with the padding unless it makes no difference."""
        mask = tokens.get("attention_mask")
        config: Any = self.model.config
        if (
            mask is None
            or config.model_type not in _IGNORE_PADDING
            or bool(mask.diff().gt(0).any())
        ):
            return torch.full(tokens["input_ids"].shape[:1], tokens["input_ids"].shape[1])
        return mask.sum(-1)

    def _tokens(self, texts: list[str]) -> dict[str, Tensor]:
        # Padded to the context, since SigLIP was trained so.
        found: Any = self.tokenizer(
            self._cleaned(texts),
            padding="max_length",
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        )
        if NO_MASK in self.text_rules:
            found.pop("attention_mask", None)
        return dict(found)

    def _cleaned(self, texts: Sequence[str]) -> list[str]:
        return [text.lower() for text in texts] if LOWER in self.text_rules else list(texts)

    @cached_property
    def _tokenizer_digest(self) -> str:
        return tokenizers.digest_of_hf(self.tokenizer, self.context_length)


def hf(
    model: str, cache: str | None = None, templates: Any = "none", long_texts: str = "report"
) -> PromptEncoder:
    """Return an image-text model of transformers, from a local folder or the hub.

    It uses the model's image processor and tokenizer. Code that comes with a model is never
    run, and pickled weights are opened with `weights_only`.

    Args:
        model: a folder written by `save_pretrained`, or a name on the hub, such as
            `openai/clip-vit-base-patch16`.
        cache: folder of downloaded weights; the hub's by default.
        templates: prompt templates: `none`, `openai`, `imagenet_short`, or texts with `{}`.
        long_texts: `report` or `error`, for texts beyond the context length.

    Raises:
        MissingResource: no such folder; or neither in the hub's cache nor downloadable.
        DissectError: not an image-text model, weights that do not fit, an image processor with
            images of different sizes, or wrong templates.
    """
    prompting = checked(templates, long_texts)
    place = Path(model).expanduser()
    depends_on(place)
    if not place.is_dir():
        hub.depends_on_repository(model, cache)
    if (place / "adapter_config.json").is_file():  # which names another model's folder
        depends_on_more()
    source = str(place) if place.is_dir() else model
    with _explained(model, source, cache):
        network = _network(source, cache)
        processor, tokenizer = _processors(source, cache)
    _check(processor, tokenizer, model)
    name = place.name if place.is_dir() else model
    encoder = HFImageText(
        f"hf/{name}",
        network,
        ImageProcessor(processor),
        tokenizer,
        _context(network, tokenizer),
        text_rules=_text_rules(network, tokenizer),
    )
    return PromptEncoder(encoder, *prompting)


def _network(source: str, cache: str | None) -> nn.Module:
    from transformers import AutoModel

    model, info = AutoModel.from_pretrained(
        source,
        cache_dir=cache,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused below, by name
    )
    if not all(hasattr(model, f"get_{kind}_features") for kind in ("image", "text")):
        raise DissectError(
            f"{source} is a {type(model).__name__}, which has no features of both images and texts"
        )
    wrong = {
        kind: sorted(str(key) for key in info.get(f"{kind}_keys", ()))
        for kind in ("missing", "unexpected", "mismatched")
    }
    wrong["unexpected"] = [k for k in wrong["unexpected"] if not k.endswith(_HARMLESS)]
    listed = "; ".join(f"{kind}: {', '.join(keys[:3])}" for kind, keys in wrong.items() if keys)
    if listed:
        raise DissectError(
            f"the weights in {source} don't fit its {type(model).__name__}: {listed}"
        )
    model.name_or_path = ""  # the digest is of what the model computes, wherever it lies
    network: nn.Module = model.float().eval()
    return network


def _processors(source: str, cache: str | None) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoTokenizer

    return (
        AutoImageProcessor.from_pretrained(source, cache_dir=cache, trust_remote_code=False),
        AutoTokenizer.from_pretrained(source, cache_dir=cache, trust_remote_code=False),
    )


def _check(processor: Any, tokenizer: Any, model: str) -> None:
    shape = tuple(ImageProcessor(processor)(Image.new("RGB", (64, 48))).shape)
    if len(shape) != 3:
        raise DissectError(
            f"the image processor of {model} makes arrays of shape {shape} rather than images "
            f"[channels, height, width]; models of variable resolution can't be used"
        )
    if tokenizer.pad_token is None:
        raise DissectError(f"the tokenizer of {model} has no padding token")
    # Where its files are missing, transformers makes one that knows no words.
    cat, dog = tokenizer(["cat", "dog"], verbose=False).input_ids
    if cat == dog:
        raise DissectError(
            f"the tokenizer of {model} takes 'cat' and 'dog' for the same word: are its files, "
            f"such as tokenizer.json, there?"
        )


def _context(network: Any, tokenizer: Any) -> int:
    text = getattr(network.config, "text_config", network.config)
    positions = getattr(text, "max_position_embeddings", tokenizer.model_max_length)
    # XLM-RoBERTa's positions (AltCLIP) start behind the padding token's number.
    offset = text.pad_token_id + 1 if _is_roberta(text) else 0
    return int(min(positions - offset, tokenizer.model_max_length))


def _is_roberta(text: Any) -> bool:
    return "roberta" in text.model_type or text.model_type == "altclip_text_model"


def _text_rules(network: Any, tokenizer: Any) -> tuple[str, ...]:
    """The rules of a model's training that its tokenizer doesn't apply by itself.

    SigLIP and SigLIP 2 were trained on lower-cased texts, padded on the right to the context
    without an attention mask: they pool the last position. SigLIP 2's checkpoints name Gemma's
    tokenizer with `do_lower_case`, which transformers ignored before its Siglip2Tokenizer.

    Source: transformers, convert_siglip_to_hf.py and convert_siglip2_to_hf.py; pull request 43101.
    """
    is_siglip = "siglip" in network.config.model_type
    rules = []
    wants_lower = is_siglip or tokenizer.init_kwargs.get("do_lower_case") is True
    cased, lower = tokenizer(["A Photo of a CAT", "a photo of a cat"], verbose=False).input_ids
    if wants_lower and cased != lower:
        rules.append(LOWER)
    if is_siglip:
        tokenizer.padding_side = "right"
        if "attention_mask" in tokenizer.model_input_names:
            rules.append(NO_MASK)
    return tuple(rules)


def _vectors(output: Any) -> Tensor:
    """Return the features, which transformers 5 wraps in an output object."""
    found: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return found


@contextmanager
def _explained(model: str, source: str, cache: str | None) -> Iterator[None]:
    from transformers.utils import logging as messages

    level = messages.get_verbosity()
    messages.set_verbosity(messages.CRITICAL)  # what it warns of is raised here
    messages.disable_progress_bar()
    try:
        with hub.asked_once():
            yield
    except DissectError:
        raise
    except Exception as error:  # transformers raises anything
        reason = one_line(error)
        if Path(source).is_dir():
            raise DissectError(f"{source} is not a usable model folder: {reason}") from error
        raise MissingResource(
            f"the image-text model {model}",
            [str(Path(model).absolute()), hub.cache_folder(cache), "the model hub"],
            "give a folder with config.json, weights, image processor and tokenizer "
            f"(encoder.model=/path), or unset HF_HUB_OFFLINE where there is a network ({reason})",
        ) from error
    finally:
        messages.set_verbosity(level)
        messages.enable_progress_bar()
