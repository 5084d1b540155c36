"""Small image-text encoders on disk, as open_clip and transformers write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import ColourEncoder
from torch import Tensor, nn
from torch.nn import functional as F

TINY: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
WORDS = ["<pad>", "</s>", "<s>", "<unk>", "cat", "dog", "a", "photo", "of"]


def register(monkeypatch: pytest.MonkeyPatch, name: str, **changes: Any) -> None:
    """Make a small network the one that open_clip builds under a name, for one test."""
    from open_clip import factory

    monkeypatch.setitem(factory._MODEL_CONFIGS, name, {**TINY, **changes})


def network(name: str, seed: int = 0) -> nn.Module:
    """A random network of open_clip."""
    import open_clip

    torch.manual_seed(seed)
    made: nn.Module = open_clip.create_model(name, load_weights=False)
    return made


def save(path: Path, model: nn.Module) -> Path:
    """Weights of a network as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, path)
    return path


def write_local_dir(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Path:
    """A folder for open_clip's `local-dir:`, with another preprocessing than CLIP's."""
    config = {**TINY, **changes}
    register(monkeypatch, "tiny-local", **changes)
    save(folder / "open_clip_model.safetensors", network("tiny-local"))
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    about = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    return folder


def word_tokenizer(start: bool, context: int, words: Sequence[str] = WORDS) -> Any:
    """A tokenizer of transformers with one token a word, an end token and perhaps a start."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(words)}
    rules = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    rules.pre_tokenizer = pre_tokenizers.Whitespace()
    rules.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if start else "$A </s>", special_tokens=[("<s>", 2), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=rules,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
        model_max_length=context,
        padding_side="right",
    )


def write_hf(folder: Path, kind: str = "clip") -> Path:
    """A folder of transformers: `clip` or `siglip`, with image processor and tokenizer."""
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    size = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {
        **size,
        "vocab_size": len(WORDS),
        "max_position_embeddings": 8,
        "projection_dim": 16,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "projection_size": 16,
    }
    vision = {**size, "image_size": 16, "patch_size": 8, "projection_dim": 16}
    name, square = ("CLIP", "crop_size") if kind == "clip" else ("Siglip", "size")
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision)
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    sizes = {square: {"height": 16, "width": 16}}
    if kind == "clip":
        sizes["size"] = {"shortest_edge": 16}
    getattr(transformers, f"{name}ImageProcessor")(**sizes).save_pretrained(folder)
    word_tokenizer(kind == "clip", 8).save_pretrained(folder)
    logging.enable_progress_bar()
    return folder


@dataclass
class PlaneEncoder(ColourEncoder):
    """Texts on a plane, one token a character; whatever isn't listed is (1, 0)."""

    name: str = "plane"
    context_length: int = 10

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    def embed_texts(self, texts: Sequence[str], device: str = "cpu") -> Tensor:
        self.texts_seen += len(texts)
        vectors = {"a cat": [0.0, 1.0], "my cat": [0.6, 0.8], "cat": [1.0, 0.0]}
        return F.normalize(torch.tensor([vectors.get(t, [1.0, 0.0]) for t in texts]), dim=-1)
