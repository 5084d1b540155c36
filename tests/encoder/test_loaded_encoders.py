"""open_clip models that are loaded already, as encoders."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from tiny_encoders import TINY, network, register
from torch import nn

from clipdissect import encoder
from clipdissect.errors import DissectError
from clipdissect.utils import hashing

open_clip = pytest.importorskip("open_clip")


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, Any, Any]:
    """A small model, its preprocessing and its tokenizer."""
    register(monkeypatch, "ViT-B-16")
    model, _, preprocess = open_clip.create_model_and_transforms("ViT-B-16", load_weights=False)
    return model, preprocess, open_clip.get_tokenizer("ViT-B-16")


def test_a_model_alone_and_with_its_parts_are_the_same_encoder(
    parts: tuple[nn.Module, Any, Any],
) -> None:
    model, preprocess, tokenizer = parts
    alone, whole = encoder.resolve(model), encoder.resolve(parts)
    assert not model.training
    assert alone.name == "open_clip/CLIP"
    assert alone.image_digest == whole.image_digest == hashing.hash_model(model)
    assert alone.text_digest == whole.text_digest
    assert hashing.hash_transform(alone.preprocess) == hashing.hash_transform(preprocess)
    with torch.no_grad():
        expected = model.encode_text(tokenizer(["a cat"]), normalize=True)  # type: ignore[operator]
    assert torch.allclose(alone.embed_texts(["a cat"], "cpu"), expected, atol=1e-6)


def test_a_trained_model_has_other_keys(parts: tuple[nn.Module, Any, Any]) -> None:
    model = parts[0]
    before = encoder.resolve(model)
    digest = before.image_digest
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert before.image_digest != digest


def test_every_registered_network_with_the_vocabulary_of_clip_has_its_tokenizer() -> None:
    for name in open_clip.list_models():
        text = open_clip.get_model_config(name)["text_cfg"]
        if text.get("vocab_size", 49408) == 49408 and "hf_model_name" not in text:
            assert "hf_tokenizer_name" not in text, name
            assert "tokenizer_kwargs" not in text, name


def test_mistakes(parts: tuple[nn.Module, Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, preprocess, tokenizer = parts
    register(monkeypatch, "ViT-B-32", text_cfg={**TINY["text_cfg"], "vocab_size": 100})
    other = network("ViT-B-32")
    cases: list[tuple[Any, str]] = [
        ((model, preprocess, preprocess), "tokenizer must be open_clip's: set encoder to (model, "),
        ((model, preprocess, open_clip.tokenize), "tokenizer must be open_clip's"),
        ((model, 3, tokenizer), "preprocess must be a function of PIL images; got 3"),
        ((model, preprocess), "a tuple as encoder must be (model, preprocess, tokenizer), with"),
        ((nn.Linear(2, 2), preprocess, tokenizer), "an open_clip model with encode_image and"),
        (other, "the CLIP doesn't record its tokenizer"),
        (nn.Linear(2, 2), "a Linear lacks name"),
    ]
    for given, says in cases:
        with pytest.raises(DissectError, match=re.escape(says)):
            encoder.resolve(given)
    del model.visual.preprocess_cfg  # type: ignore[union-attr]
    with pytest.raises(DissectError, match="the CLIP doesn't record its preprocessing"):
        encoder.resolve(model)
