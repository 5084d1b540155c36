"""open_clip's models through their real loading code, with small networks that the tests write."""

from __future__ import annotations

import json
import logging
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny import preprocess
from tiny_encoders import (
    TINY,
    network,
    register,
    save,
    word_tokenizer,
    write_local_dir,
)
from torch import nn
from torch.nn import functional as F

from clipdissect import encoder, sentence
from clipdissect.encoder import batches
from clipdissect.encoder import open_clip_weights as weights
from clipdissect.encoder.open_clip import OpenClip
from clipdissect.encoder.presets import PRESETS
from clipdissect.errors import DissectError, MissingResource
from clipdissect.models import hub
from clipdissect.utils import hashing

open_clip = pytest.importorskip("open_clip")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
QUICK = "ViT-B-16-quickgelu"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """ViT-B/16 with either activation is a small network."""
    register(monkeypatch, "ViT-B-16")
    register(monkeypatch, QUICK, quick_gelu=True)


@pytest.fixture
def checkpoint(small: None, tmp_path: Path) -> Path:
    return save(tmp_path / "weights" / "clip.safetensors", network(QUICK))


def steps(found: Any) -> dict[str, Any]:
    """Size, resizing and normalisation of open_clip's transform."""
    by_name = {type(step).__name__: step for step in found.preprocess.transforms}
    return {
        "mean": by_name["Normalize"].mean,
        "size": by_name["Resize"].size,
        "squash": "CenterCrop" not in by_name,
    }


def without_memory(model: str) -> nn.Module:
    """A network of full size whose tensors have shapes only."""
    with torch.device("meta"):
        built: nn.Module = open_clip.create_model(model, load_weights=False, device="meta")
    return built


def test_every_preset_is_in_open_clips_registry_with_the_right_activation() -> None:
    pairs = set(open_clip.list_pretrained())
    quick_gelu: dict[str, bool] = {}
    for name, preset in PRESETS.items():
        assert (preset.model, preset.tag) in pairs, name
        weights.check_names(preset.model, preset.tag)
        if preset.model not in quick_gelu:
            built = without_memory(preset.model)
            assert sum(p.numel() for p in built.parameters()) > 5e7, name
            quick_gelu[preset.model] = any("QuickGELU" in str(type(m)) for m in built.modules())
        assert quick_gelu[preset.model] == name.startswith(("clip_", "metaclip", "dfn")), name


def test_clip_vit_b16_from_a_checkpoint_of_full_size(tmp_path: Path) -> None:
    shapes = without_memory(QUICK).state_dict()
    state = {k: torch.full(v.shape, 0.01, dtype=torch.half) for k, v in shapes.items()}
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "vit.pt")
    found = encoder.build("clip_vit_b16", checkpoint=str(tmp_path / "vit.pt"))
    with torch.no_grad():
        embeds = found.embed_images(found.preprocess(Image.new("RGB", (300, 240)))[None])
    assert embeds.shape == (1, 512)
    assert found.embed_texts(["cat"]).shape == (1, 512)
    assert found.context_length == 77
    assert found.name == "ViT-B-16-quickgelu/openai"
    assert steps(found) == {"mean": CLIP_MEAN, "size": 224, "squash": False}
    values = found.encoder.model.visual.proj  # type: ignore[attr-defined]
    assert values.dtype == torch.float32
    assert values.unique().tolist() == [torch.tensor(0.01).half().item()]


def test_embeddings_are_the_networks_own(checkpoint: Path) -> None:
    found = encoder.build("clip_vit_b16", checkpoint=str(checkpoint))
    model, tokenizer = network(QUICK).eval(), open_clip.SimpleTokenizer(context_length=12)
    image = Image.effect_noise((40, 30), 90).convert("RGB")
    texts = ["cat", "a photo of a dog"] * 300  # more than one batch
    with torch.no_grad():
        here = found.embed_images(found.preprocess(image)[None])
        there = model.encode_image(found.preprocess(image)[None], normalize=True)
        by_hand = model.encode_text(tokenizer(texts), normalize=True)
    torch.testing.assert_close(here, there)
    torch.testing.assert_close(found.embed_texts(texts), by_hand)
    assert not found.embed_texts(["cat"]).requires_grad


TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
TEXTS = ["cat", "a photo of a cat that sleeps in sun", "two dogs", "cat", "word " * 40]


@pytest.mark.parametrize(
    ("text", "custom", "lengths"),
    [
        ({}, False, {3, 4, 11, 12}),
        ({}, True, {3, 4, 11, 12}),
        ({"pool_type": "eos", "eos_id": 49407}, True, {3, 4, 11, 12}),
        ({"pool_type": "last"}, True, {12}),
        ({"no_causal_mask": True}, True, {12}),
        ({"embed_cls": True, "pool_type": "last"}, True, {13}),
    ],
)
def test_short_texts_are_embedded_as_padded_ones(
    monkeypatch: pytest.MonkeyPatch, text: dict[str, Any], custom: bool, lengths: set[int]
) -> None:
    register(monkeypatch, "tiny", text_cfg={**TEXT, **text}, custom_text=custom)
    monkeypatch.setattr(batches, "TOKENS_ON_CPU", 4)  # one text each
    found = OpenClip("tiny", network("tiny").eval(), preprocess(), open_clip.get_tokenizer("tiny"))
    model: Any = found.model
    with torch.no_grad():
        expected = F.normalize(model.encode_text(found.tokenizer(TEXTS)), dim=-1)
    seen = set()
    block = model.transformer if not custom else model.text.transformer
    block.register_forward_pre_hook(lambda module, inputs: seen.add(inputs[0].shape[1]))
    torch.testing.assert_close(found.embed_texts(TEXTS), expected)
    assert seen == lengths


def test_random_weights_are_always_the_same_and_are_told(small: None) -> None:
    before = torch.get_rng_state()
    found, again = (encoder.build("open_clip", pretrained="random") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert found.image_digest == again.image_digest
    assert found.name == f"{QUICK}/random"
    assert "random" in found.notes[0]
    assert steps(found)["mean"] == CLIP_MEAN
    with pytest.raises(DissectError, match="unknown open_clip model"):
        encoder.build("open_clip", model="ViT-B-61", pretrained="random")


def test_a_folder_with_the_checkpoint_and_a_fetched_one(checkpoint: Path, own_cache: Path) -> None:
    by_file = encoder.build("clip_vit_b16", checkpoint=str(checkpoint))
    by_folder = encoder.build("clip_vit_b16", checkpoint=str(checkpoint.parent))
    save(own_cache / "encoders" / "clip_vit_b16" / "open_clip_model.safetensors", network(QUICK))
    fetched = encoder.build("clip_vit_b16")
    assert by_file.text_digest == by_folder.text_digest == fetched.text_digest
    (checkpoint.parent / "other.pt").touch()
    with pytest.raises(DissectError, match=r"several \(clip\.safetensors, other\.pt\): name one"):
        encoder.build("clip_vit_b16", checkpoint=str(checkpoint.parent))


def test_digests_change_with_weights_and_activation(checkpoint: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "other.safetensors", network(QUICK, seed=1))
    digests = {
        encoder.build("open_clip", model=m, pretrained=None, checkpoint=str(c)).image_digest
        for m in (QUICK, "ViT-B-16")
        for c in (checkpoint, other)
    }
    assert len(digests) == 4


def test_file_as_pretrained_says_what_it_cannot_know(checkpoint: Path) -> None:
    found = encoder.build("open_clip", model="ViT-B-16", pretrained=str(checkpoint))
    assert "GELU was taken (ViT-B-16-quickgelu has the other)" in found.notes[0]
    assert found.name == "ViT-B-16/clip.safetensors"
    assert steps(found)["mean"] == CLIP_MEAN
    assert encoder.build("clip_vit_b16", checkpoint=str(checkpoint)).notes == ()


def test_preprocessing_comes_from_the_tag_also_for_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = {**TINY["text_cfg"], "hf_tokenizer_name": "no/where"}
    register(monkeypatch, "ViT-B-16-SigLIP2", text_cfg=text)
    path = save(tmp_path / "open_clip_model.safetensors", network("ViT-B-16-SigLIP2"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingResource, match=r"tokenizer of ViT-B-16-SigLIP2 \(no/where\)"):
        encoder.build("siglip2_b16", checkpoint=str(path))
    word_tokenizer(False, 12).save_pretrained(tmp_path)
    found = encoder.build("siglip2_b16", checkpoint=str(path))
    assert steps(found) == {"mean": (0.5, 0.5, 0.5), "size": (32, 32), "squash": True}
    assert found.count_tokens(["a photo of a cat"]) == [6]
    assert found.embed_texts(["cat"]).shape == (1, 16)
    before = found.text_digest
    rules = tmp_path / "tokenizer.json"
    rules.write_text(rules.read_text().replace('"dog"', '"cow"'))
    again = encoder.build("siglip2_b16", checkpoint=str(path))
    assert again.text_digest != before
    assert again.image_digest == found.image_digest


def test_tags_that_differ_in_preprocessing_need_naming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(monkeypatch, "ViT-L-14")
    path = save(tmp_path / "large.safetensors", network("ViT-L-14"))
    with pytest.raises(DissectError, match=r"name the tag they belong to.*laion2b_s32b_b82k"):
        encoder.build("open_clip", model="ViT-L-14", pretrained=str(path))
    found = encoder.build(
        "open_clip", model="ViT-L-14", pretrained="laion2b_s32b_b82k", checkpoint=str(path)
    )
    assert steps(found)["mean"] == (0.5, 0.5, 0.5)


def test_local_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_local_dir(tmp_path / "own", monkeypatch)
    found = encoder.build("open_clip", model=f"local-dir:{folder}")
    assert found.name == "open_clip/own"
    assert steps(found) == {"mean": [0.5] * 3, "size": (32, 32), "squash": True}
    reference = network("tiny-local").eval()
    tokens = open_clip.SimpleTokenizer(context_length=12)(["cat"])
    with torch.no_grad():
        by_hand = reference.encode_text(tokens, normalize=True)
    torch.testing.assert_close(found.embed_texts(["cat"]), by_hand)
    (folder / "open_clip_config.json").write_text(json.dumps({"embed_dim": 3}))
    with pytest.raises(DissectError, match="model_cfg"):
        encoder.build("open_clip", model=f"local-dir:{folder}")
    with pytest.raises(MissingResource, match=r"nowhere/open_clip_config\.json"):
        encoder.build("open_clip", model="local-dir:nowhere")


def test_a_checkpoint_of_another_network(checkpoint: Path, tmp_path: Path) -> None:
    state = network(QUICK).state_dict()
    wrong: dict[str, dict[str, Any]] = {
        "Missing key": {k: v for k, v in state.items() if k != "visual.proj"},
        "Unexpected key": {**state, "extra": torch.zeros(1)},
        "size mismatch for visual.proj": {**state, "visual.proj": torch.zeros(32, 9)},
        "another image or patch size": {
            **state,
            "visual.positional_embedding": torch.zeros(17, 32),
        },
        "another text length": {**state, "positional_embedding": torch.zeros(77, 16)},
    }
    for says, tensors in wrong.items():
        torch.save(tensors, tmp_path / "wrong.pt")
        with pytest.raises(DissectError, match=f"don't fit ViT-B-16-quickgelu: .*{says}"):
            encoder.build("clip_vit_b16", checkpoint=str(tmp_path / "wrong.pt"))


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("pwned",)


def test_pickles_that_run_code_are_refused(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Evil()}, "evil.pt")
    with pytest.raises(DissectError, match="can be read safely"):
        encoder.build("clip_vit_b16", checkpoint="evil.pt")
    assert not Path("pwned").exists()


class _Archive(nn.Module):
    """OpenAI's archives hold three numbers among the network's half-precision tensors."""

    def __init__(self, model: nn.Module, extras: bool) -> None:
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        for name, parameter in model.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name in ("input_resolution", "context_length", "vocab_size") if extras else ():
            self.register_buffer(name, torch.tensor(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch, that TorchScript is old
def test_openais_torchscript_archive(small: None, checkpoint: Path, tmp_path: Path) -> None:
    for name, extras in (("openai.pt", True), ("other.pt", False)):
        archive: Any = torch.jit.trace(
            _Archive(network(QUICK).half(), extras), torch.zeros(1), check_trace=False
        )
        archive.save(str(tmp_path / name))
    found = encoder.build("clip_vit_b16", checkpoint=str(tmp_path / "openai.pt"))
    whole = encoder.build("clip_vit_b16", checkpoint=str(checkpoint))
    torch.testing.assert_close(
        found.embed_texts(["cat"]), whole.embed_texts(["cat"]), atol=5e-3, rtol=0
    )
    with pytest.raises(DissectError, match="use model=ViT-B-16-quickgelu"):
        encoder.build("open_clip", model="ViT-B-16", pretrained=str(tmp_path / "openai.pt"))
    with pytest.raises(DissectError, match="not one of OpenAI's"):
        encoder.build("clip_vit_b16", checkpoint=str(tmp_path / "other.pt"))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_state_dict_in_openais_layout(
    small: None, checkpoint: Path, tmp_path: Path, prefix: str, suffix: str
) -> None:
    state = {name: tensor.half() for name, tensor in network(QUICK).state_dict().items()}
    extras = {"input_resolution": 32, "context_length": 12, "vocab_size": 49408}
    state |= {name: torch.tensor(value) for name, value in extras.items()}
    named = {prefix + name: tensor for name, tensor in state.items()}
    path = tmp_path / f"clip{suffix}"
    if suffix == ".pt":
        torch.save({"epoch": 3, "state_dict": named}, path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in named.items()}, path)
    found = encoder.build("clip_vit_b16", checkpoint=str(path))
    whole = encoder.build("clip_vit_b16", checkpoint=str(checkpoint))
    torch.testing.assert_close(
        found.embed_texts(["cat"]), whole.embed_texts(["cat"]), atol=5e-3, rtol=0
    )
    with pytest.raises(DissectError, match="use model=ViT-B-16-quickgelu"):
        encoder.build("open_clip", model="ViT-B-16", pretrained=str(path))


@pytest.mark.parametrize(
    ("model", "tag", "says"),
    [
        ("ViT-B-16", "openai", "use model=ViT-B-16-quickgelu"),
        ("RN50", "cc12m", "use model=RN50-quickgelu"),
        ("ViT-B-17", "openai", "Did you mean ViT-B-16"),
        (QUICK, "opnai", "nor is it a file.*Did you mean openai"),
        (QUICK, None, r"encoder\.pretrained=<tag> or encoder\.checkpoint=<file>"),
    ],
)
def test_wrong_names(model: str, tag: str | None, says: str) -> None:
    with pytest.raises(DissectError, match=says):
        encoder.build("open_clip", model=model, pretrained=tag)


def test_wrong_templates_are_found_before_anything_is_loaded() -> None:
    with pytest.raises(DissectError, match="Did you mean openai"):
        encoder.build("clip_vit_b16", templates="opena", checkpoint="nowhere")


def test_templates_and_long_texts_of_a_real_tokenizer(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["cat", "one two three four five six seven eight nine"]
    made = {
        t: encoder.build("clip_vit_b16", checkpoint=str(checkpoint), templates=t)
        for t in ("none", "openai")
    }
    assert made["none"].text_notes(texts) == ()  # 9 words and two: 11 of 12
    with caplog.at_level(logging.WARNING):
        embeds = made["openai"].embed_texts(texts)
    assert "1 of 2 texts are longer than the 12 tokens" in caplog.text
    prompts = [t.replace("{}", "cat") for t in made["openai"].templates]
    mean = made["none"].encoder.embed_texts(prompts).mean(0)
    torch.testing.assert_close(embeds[0], mean / mean.norm())


def test_clip_text_is_a_sentence_encoder(checkpoint: Path) -> None:
    found = sentence.build("clip_text", parameters={"checkpoint": str(checkpoint)})
    whole = encoder.build("clip_vit_b16", checkpoint=str(checkpoint))
    assert found.name == "clip_vit_b16"
    assert found.digest == whole.text_digest
    assert found.embed(["cat"]).equal(whole.embed_texts(["cat"]))
    assert (found.context_length, found.count_tokens(["cat"])) == (12, [3])


def test_what_cannot_be_had_says_what_to_do(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingResource, match="profile=offline") as caught:
        encoder.build("clip_vit_b16", cache=str(tmp_path))
    fetched = str(own_cache / "encoders" / "clip_vit_b16")
    assert caught.value.looked[:2] == (fetched, str(tmp_path))
    assert caught.value.remedy.startswith("clipdissect fetch clip_vit_b16; ")
    with pytest.raises(MissingResource, match=r"encoder\.checkpoint=") as caught:
        encoder.build("siglip2_b16", cache=str(tmp_path))
    assert "fetch" not in caught.value.remedy
    with pytest.raises(MissingResource, match=r"hub \(some/model\)"):
        encoder.build("open_clip", model="hf-hub:some/model", cache=str(tmp_path))
    with pytest.raises(MissingResource, match="check the path"):
        encoder.build("clip_vit_b16", checkpoint="nowhere.pt")
    with pytest.raises(MissingResource, match=r"sentence\.parameters=\{checkpoint: /path\}"):
        sentence.build("clip_text")


def test_without_a_network_the_hub_is_not_asked_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from huggingface_hub import constants

    def refuse(*_: Any) -> socket.socket:
        raise OSError("no network")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with hub.asked_once():
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE
    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        with hub.asked_once():
            assert not constants.HF_HUB_OFFLINE


def test_logging_is_left_as_it_was(checkpoint: Path) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    encoder.build("clip_vit_b16", checkpoint=str(checkpoint))
    assert (root.level, root.handlers) == before
    assert hashing.hash_transform(
        encoder.build("clip_vit_b16", checkpoint=str(checkpoint)).preprocess
    )
