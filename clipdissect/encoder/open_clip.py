"""CLIP and its kin through open_clip."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from clipdissect.encoder import open_clip_weights as weights
from clipdissect.encoder.batches import Tokens, in_batches, placed
from clipdissect.encoder.prompts import PromptEncoder, checked
from clipdissect.errors import DissectError, MissingResource, one_line
from clipdissect.models import checkpoints, hub, tokenizers
from clipdissect.utils import hashing
from clipdissect.utils.dependencies import depends_on
from clipdissect.utils.hashing import Transform
from clipdissect.utils.short_repr import short_repr

LOCAL, HUB = "local-dir:", "hf-hub:"
RANDOM_NOTE = "the encoder's weights are random (seed 0): good for timing and trials alone"


@dataclass(frozen=True)
class OpenClip:
    """An open_clip model with its own preprocessing and tokenizer.

    Args:
        name: what to call it in results.
        model: has `encode_image` and `encode_text`.
        preprocess: PIL image to the model's input.
        tokenizer: texts to tokens `[texts, context]`.
        notes: what a reader of the results must know about it.
    """

    name: str
    model: nn.Module
    preprocess: Transform
    tokenizer: Any
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return short_repr(self)

    @property
    def image_network(self) -> nn.Module:
        network: nn.Module = getattr(self.model, "visual", self.model)
        return network

    @property
    def image_digest(self) -> str:
        return hashing.hash_model(self.model)

    @property
    def text_digest(self) -> str:
        return hashing.hash_values("open_clip text 3", self.image_digest, self._tokenizer_digest)

    @property
    def context_length(self) -> int:
        return int(self.tokenizer.context_length)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return tokenizers.count(self.tokenizer, texts)

    def embed_images(
        self, images: Float[Tensor, "images channels h w"]
    ) -> Float[Tensor, "images d"]:
        encode: Any = self.model.encode_image
        return F.normalize(encode(placed(self.image_network, images)).float(), dim=-1)

    def embed_texts(self, texts: Sequence[str], device: str = "cpu") -> Float[Tensor, "texts d"]:
        texts_of = _TextNetwork(self.model.to(device))
        tokens = lambda some: {"text": self.tokenizer(some)}  # noqa: E731
        return in_batches(texts, tokens, texts_of.lengths, texts_of.encode, device)

    @cached_property
    def _tokenizer_digest(self) -> str:
        return tokenizers.digest_of(self.tokenizer)


def open_clip(
    model: str = "ViT-B-16-quickgelu",
    pretrained: str | None = "openai",
    checkpoint: str | None = None,
    cache: str | None = None,
    templates: Any = "none",
    long_texts: str = "report",
) -> PromptEncoder:
    """Return a model of open_clip.

    A tag determines the preprocessing and activation function the weights were trained with; a file
    does not: give the tag as well where one describes it.

    Args:
        model: such as `ViT-B-16-quickgelu`, `local-dir:<folder>`, or `hf-hub:<repository>`.
        pretrained: the weights' tag; a local checkpoint that no tag describes; or `random` (seed 0,
            noted), for timing. Ignored with `local-dir:` and `hf-hub:`.
        checkpoint: a local file or folder instead of the download. A `tokenizer.json` in the folder
            is used if the model needs one of the hub's tokenizers.
        cache: folder of downloaded weights; the hub's by default.
        templates: prompt templates: `none`, `openai`, `imagenet_short`, or texts with `{}`.
        long_texts: `report` or `error`, for texts beyond the context length.

    Raises:
        MissingResource: the weights or the tokenizer are neither local nor downloadable.
        DissectError: unknown model or tag, weights with another activation function, a checkpoint
            that does not fit, or wrong templates.
    """
    prompting = checked(templates, long_texts)
    if pretrained == checkpoints.RANDOM and checkpoint is None:
        return PromptEncoder(_random(model, cache), *prompting)
    chosen = _source(model, pretrained, checkpoint)
    path = _weights(chosen, cache)
    network, preprocess = _build(chosen, cache)
    weights.load(network, path, chosen.model)
    encoder = OpenClip(
        chosen.name,
        network.eval(),
        preprocess,
        _tokenizer(chosen, path.parent, cache),
        chosen.notes,
    )
    return PromptEncoder(encoder, *prompting)


class _TextNetwork(nn.Module):
    """`encode_text`, which takes shorter texts where what follows a text's end can't matter."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.causal = _causal_part(model)  # path of the module, or None

    def forward(self, text: Tensor) -> Tensor:
        embeds: Tensor = self.model.encode_text(text)
        return embeds

    def lengths(self, tokens: Tokens) -> Int[Tensor, " texts"]:
        """Return the tokens of each text up to the one whose output is the embedding."""
        text = tokens["text"]
        if self.causal is None:
            return torch.full(text.shape[:1], text.shape[1])
        part = self.get_submodule(self.causal)
        if _pooling(part) == "eos":
            text = (text == _end(part)).int()
        return text.argmax(-1) + 1

    def encode(self, tokens: Tokens) -> Tensor:
        text = tokens["text"]
        if self.causal is None:
            return self.forward(text)
        part: Any = self.get_submodule(self.causal)
        n = text.shape[1]
        shorter = {
            f"{self.causal}.positional_embedding": part.positional_embedding[:n],
            f"{self.causal}.attn_mask": part.attn_mask[:n, :n],
        }
        embeds: Tensor = functional_call(self, shorter, (text,))
        return embeds


def _causal_part(model: Any) -> str | None:
    """Return the module whose tokens see only those before, and that pools a text's last one."""
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer

    if type(model) is CLIP:
        path, part = "model", model
    elif type(model) is CustomTextCLIP and type(model.text) is TextTransformer:
        path, part = "model.text", model.text
    else:
        return None
    mask = part.attn_mask
    if mask is None or _pooling(part) not in ("argmax", "eos"):
        return None
    causal = torch.full_like(mask, float("-inf")).triu(1)
    has_class_token = getattr(part, "cls_emb", None) is not None
    return path if mask.equal(causal) and not has_class_token else None


def _pooling(part: Any) -> str:
    return str(getattr(part, "text_pool_type", None) or part.pool_type)


def _end(part: Any) -> int:
    return int(part.text_eos_id if hasattr(part, "text_eos_id") else part.eos_id)


def _random(model: str, cache: str | None) -> OpenClip:
    weights.check_names(model, None)
    source = _Source(model, checkpoints.RANDOM, None)
    network, preprocess = checkpoints.random(lambda: _build(replace(source, tag=None), cache))
    tokenizer = _tokenizer(source, Path(), cache)
    return OpenClip(source.name, network.eval(), preprocess, tokenizer, (RANDOM_NOTE,))


@dataclass(frozen=True)
class _Source:
    """A model's name, the tag of its weights if they have one, and a local path."""

    model: str
    tag: str | None
    path: Path | None

    @property
    def is_registered(self) -> bool:
        return not self.model.startswith((LOCAL, HUB))

    @property
    def name(self) -> str:
        if self.model.startswith(LOCAL):
            return f"open_clip/{Path(self.model.removeprefix(LOCAL)).name}"
        return f"{self.model}/{self.tag or (self.path.name if self.path else '')}".rstrip("/")

    @property
    def notes(self) -> tuple[str, ...]:
        if self.tag or not self.is_registered or not weights.other_activation(self.model):
            return ()
        here = "QuickGELU" if weights.is_quick(self.model) else "GELU"
        return (
            f"the encoder's weights come from a file, which doesn't say its activation function: "
            f"{here} was taken ({weights.other_activation(self.model)} has the other)",
        )


def _source(model: str, pretrained: str | None, checkpoint: str | None) -> _Source:
    path = Path(checkpoint).expanduser() if checkpoint else None
    if model.startswith(LOCAL):
        folder = _config_folder(model.removeprefix(LOCAL))
        return _Source(f"{LOCAL}{folder}", None, path or folder)
    if model.startswith(HUB):
        return _Source(model, None, path)
    as_file = Path(pretrained).expanduser() if pretrained else None
    if as_file is not None:
        depends_on(as_file)
    if path is None and as_file is not None and as_file.is_file():
        path, pretrained = as_file, None
    weights.check_names(model, pretrained)
    if path is None and pretrained is None:
        raise DissectError(
            "the encoder needs weights: encoder.pretrained=<tag> or encoder.checkpoint=<file>"
        )
    return _Source(model, pretrained, path)


def _config_folder(name: str) -> Path:
    folder = Path(name).expanduser()
    depends_on(folder)
    if not (folder / "open_clip_config.json").is_file():
        raise MissingResource(
            "the encoder's configuration",
            [str((folder / "open_clip_config.json").absolute())],
            "local-dir: takes a folder with open_clip_config.json and weights",
        )
    return folder


def _weights(source: _Source, cache: str | None) -> Path:
    if source.path is None:
        path = weights.download(source.model, source.tag, cache)
        depends_on(path, _repository(path))
        return path
    depends_on(source.path)
    if not source.path.exists():
        raise MissingResource(
            "the encoder's checkpoint", [str(source.path.absolute())], "check the path"
        )
    return weights.in_folder(source.path) if source.path.is_dir() else source.path


def _repository(path: Path) -> Path:
    """Return the folder in the hub's cache of a file `snapshots/<commit>/<file>`, else the file."""
    return path.parents[2] if path.parents[1].name == "snapshots" else path


def _note_text_files(source: _Source, folder: Path, cache: str | None) -> None:
    """Note the files of a tokenizer and of a text network's configuration."""
    import open_clip as library

    # Files beside a checkpoint count if there is a tokenizer among them.
    own = folder / "tokenizer.json"
    depends_on(own, *([folder] if own.is_file() else []))
    config = (library.get_model_config(source.model) or {}).get("text_cfg", {})
    of_model = source.model.removeprefix(HUB) if source.model.startswith(HUB) else None
    for name in (of_model, config.get("hf_tokenizer_name"), config.get("hf_model_name")):
        if name:
            hub.depends_on_repository(name, cache)


def _build(source: _Source, cache: str | None) -> tuple[nn.Module, Transform]:
    import open_clip as library

    settings = weights.preprocessing(source.model, source.tag) if source.is_registered else {}
    try:
        with hub.asked_once(), _quiet():
            network, _, preprocess = library.create_model_and_transforms(
                source.model,
                load_weights=False,
                pretrained_text=False,
                cache_dir=cache,
                **{f"image_{name}": value for name, value in settings.items()},
            )
    except Exception as error:  # open_clip and timm raise anything
        reason = one_line(error)
        if isinstance(error, OSError):  # transformers, of a text network's configuration
            raise MissingResource(
                f"the configuration of {source.model}",
                [hub.cache_folder(cache), "the model hub"],
                f"unset HF_HUB_OFFLINE where there is a network ({reason})",
            ) from error
        raise DissectError(f"open_clip can't build {source.model}: {reason}") from error
    return network, preprocess


def _tokenizer(source: _Source, folder: Path, cache: str | None) -> Any:
    import open_clip as library
    from open_clip.tokenizer import HFTokenizer

    name = None
    try:
        with hub.asked_once(), _quiet():
            _note_text_files(source, folder, cache)
            config = (library.get_model_config(source.model) or {}).get("text_cfg", {})
            name = config.get("hf_tokenizer_name")
            if name and (folder / "tokenizer.json").is_file():
                found = HFTokenizer(
                    str(folder),
                    config.get("context_length", 77),
                    cache_dir=cache,
                    tokenizer_mode=config.get("tokenizer_mode"),
                    **config.get("tokenizer_kwargs", {}),
                )
            else:
                found = library.get_tokenizer(source.model, cache_dir=cache)
    except Exception as error:  # as above
        raise MissingResource(
            f"the tokenizer of {source.model} ({name})",
            [str(folder / "tokenizer.json"), hub.cache_folder(cache), "the model hub"],
            "put its tokenizer.json and tokenizer_config.json beside the checkpoint, or unset "
            "HF_HUB_OFFLINE where there is a network",
        ) from error
    if "siglip" in (name or source.model).lower() and hasattr(found, "tokenizer"):
        found.tokenizer.padding_side = "right"  # as trained; Gemma's own default is left
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    # open_clip speaks through the root logger, which it sets up if nobody else has; and what it
    # warns of is raised here in our words.
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
