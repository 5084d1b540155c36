"""Text rules of each family of encoders: lower case, padding, masks and the context length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_encoders import WORDS, word_tokenizer
from torch.nn import functional as F

from clipdissect import encoder
from clipdissect.encoder.hf import LOWER, NO_MASK
from clipdissect.encoder.presets import PRESETS

transformers = pytest.importorskip("transformers")
FAMILIES = ("CLIP", "MetaClip2", "CLIPSeg", "AltCLIP", "ChineseCLIP", "Blip", "Siglip")


def write(folder: Path, family: str, mask: bool = True, **tokenizer: Any) -> Path:
    """A small random model of a family with a cased tokenizer, as transformers saves them."""
    torch.manual_seed(0)
    size = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": 16,
    }
    text = {
        **size,
        "vocab_size": len(WORDS),
        "max_position_embeddings": 12,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "sep_token_id": 1,
        "project_dim": 16,
        "encoder_hidden_size": 16,
        "projection_size": 16,
        "type_vocab_size": 1,
    }
    vision = {**size, "image_size": 16, "patch_size": 8}
    config = getattr(transformers, f"{family}Config")(
        text_config=text, vision_config=vision, projection_dim=16, image_text_hidden_size=16
    )
    getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    processor.save_pretrained(folder)
    made = word_tokenizer(family != "Siglip", 12)
    made.save_pretrained(folder)
    about = json.loads((folder / "tokenizer_config.json").read_text())
    names = ["input_ids", "attention_mask"] if mask else ["input_ids"]
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**about, "model_input_names": names, **tokenizer})
    )
    return folder


@pytest.mark.filterwarnings("ignore")  # of models that transformers will drop one day
@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_are_the_models_own(tmp_path: Path, family: str) -> None:
    folder = write(tmp_path / family, family, mask=family != "Siglip")
    found = encoder.build("hf", model=str(folder))
    image, texts = Image.effect_noise((20, 16), 90).convert("RGB"), ["cat", "a photo of a dog"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = getattr(transformers, f"{family}Model").from_pretrained(folder).eval()
    limit = 11 if family == "AltCLIP" else 12  # its positions start behind the padding token
    assert found.context_length == limit
    with torch.no_grad():
        images = found.embed_images(found.preprocess(image)[None])
        out = model(
            **tokenizer(texts, padding="max_length", max_length=limit, return_tensors="pt"),
            pixel_values=found.preprocess(image)[None],
        )
    torch.testing.assert_close(images, F.normalize(out.image_embeds, dim=-1))
    embeds = found.embed_texts(texts)
    torch.testing.assert_close(embeds, F.normalize(out.text_embeds, dim=-1))
    found.embed_texts(["a " * 40])  # cut to what the positions allow
    needed = found.encoder._lengths(found.encoder._tokens(texts)).tolist()
    assert needed == ([limit] * 2 if family == "Siglip" else [3, 7])


def test_siglip_2_lowers_pads_right_and_has_no_mask(tmp_path: Path) -> None:
    # As its checkpoints are: a SigLIP model, and a tokenizer that ignores do_lower_case.
    told = write(tmp_path / "told", "Siglip", mask=False, do_lower_case=True)
    gemma = write(tmp_path / "gemma", "Siglip", padding_side="left")  # that class's own defaults
    one, other = (encoder.build("hf", model=str(folder)) for folder in (told, gemma))
    assert one.encoder.text_rules == (LOWER,)
    assert other.encoder.text_rules == (LOWER, NO_MASK)
    right = one.embed_texts(["a photo of a cat"])
    for found in (one, other):
        torch.testing.assert_close(found.embed_texts(["A photo of a Cat"]), right)
        tokens = found.encoder._tokens(["A Cat"])
        assert tokens["input_ids"].tolist() == [[6, 4, 1] + [0] * 9]
        assert "attention_mask" not in tokens
        assert found.count_tokens(["A CAT"]) == [3]
    plain = write(tmp_path / "plain", "Siglip", mask=False)
    assert encoder.build("hf", model=str(plain)).text_digest == one.text_digest  # of the rules


def test_models_that_were_trained_with_capitals_keep_them(tmp_path: Path) -> None:
    cased = encoder.build("hf", model=str(write(tmp_path / "cased", "AltCLIP")))
    assert cased.encoder.text_rules == ()
    assert not cased.embed_texts(["Cat"]).equal(cased.embed_texts(["cat"]))
    lower = write(tmp_path / "lower", "ChineseCLIP", do_lower_case=True)
    found = encoder.build("hf", model=str(lower))
    assert found.encoder.text_rules == (LOWER,)
    assert found.embed_texts(["Cat"]).equal(found.embed_texts(["cat"]))
    assert (
        found.text_digest
        != encoder.build("hf", model=str(write(tmp_path / "upper", "ChineseCLIP"))).text_digest
    )


def test_open_clips_rules() -> None:
    import open_clip
    from open_clip.tokenizer import get_clean_fn

    for name in open_clip.list_models():
        text = open_clip.get_model_config(name)["text_cfg"]
        if "SigLIP" in name:
            assert get_clean_fn(text["tokenizer_kwargs"]["clean"])("A Cat!") == "a cat", name
            assert text["context_length"] in (16, 64), name
    for preset in PRESETS.values():
        text = open_clip.get_model_config(preset.model)["text_cfg"]
        if "hf_tokenizer_name" in text:
            assert "SigLIP2" in preset.model
            assert text["context_length"] == 64
        else:  # open_clip's own, which is OpenAI's
            assert text["context_length"] == 77
            assert not set(text) & {"tokenizer_kwargs", "tokenizer_mode"}
    tokenizer = open_clip.get_tokenizer("ViT-B-16-quickgelu")
    assert tokenizer("A Photo of a CAT").equal(tokenizer("a photo of a cat"))
