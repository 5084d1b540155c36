"""Images by a local pipeline of diffusers: made once, from safetensors, without running code."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipdissect import text_images
from clipdissect.errors import DissectError, MissingResource
from clipdissect.text_images import generated
from clipdissect.text_images.generated import PipelineFolder

INDEX = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}


@dataclass
class Pipeline:
    """A generator of noise that records its calls; `black` prompts are censored."""

    black: str = "censored"
    prompts: list[list[str]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(
        self, prompts: list[str], generator: list[torch.Generator], **options: Any
    ) -> SimpleNamespace:
        self.prompts.append(prompts)
        self.options = options
        pixels = [torch.randint(0, 256, (4, 4, 3), generator=g) for g in generator]
        images = [Image.fromarray(p.numpy().astype(np.uint8)) for p in pixels]
        black = [self.black in prompt and n == 0 for n, prompt in enumerate(prompts)]
        return SimpleNamespace(images=images, nsfw_content_detected=black)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pipeline"
    (root / "unet").mkdir(parents=True)
    (root / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    (root / "model_index.json").write_text(json.dumps(INDEX))
    return root


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    drawer = Pipeline()
    monkeypatch.setattr(generated, "find_spec", lambda name: name)
    monkeypatch.setattr(PipelineFolder, "load", lambda self, device: drawer)
    return drawer


def build(folder: Path, **options: Any) -> text_images.TextImages:
    values = {"images": 5, "batch_size": 2, **options}
    source = text_images.build("diffusers", path=str(folder), **values)
    assert source is not None
    return source


def pixels(source: text_images.TextImages, text: str) -> list[np.ndarray]:
    images = source.images_of(text)
    assert images is not None
    return [np.asarray(images.read(i)) for i in range(len(images))]


def test_images_are_generated_once(folder: Path, pipeline: Pipeline, own_cache: Path) -> None:
    first = pixels(build(folder), "a zebra")
    assert [len(prompts) for prompts in pipeline.prompts] == [2, 2, 1]
    assert pipeline.prompts[0][0] == "realistic photo of a close up of a zebra"
    assert len({image.tobytes() for image in first}) == 5
    pipeline.prompts.clear()
    assert all(map(np.array_equal, first, pixels(build(folder), "a zebra")))
    assert pipeline.prompts == []
    (removed,) = own_cache.glob("generated/*/00003.png")
    removed.unlink()
    # The missing one alone, with its own seed, and so the same pixels.
    assert all(map(np.array_equal, first, pixels(build(folder, batch_size=9), "a zebra")))
    assert pipeline.prompts == [["realistic photo of a close up of a zebra"]]
    assert len(pixels(build(folder, images=2), "a zebra")) == 2
    assert len(pipeline.prompts) == 1


def test_other_settings_give_other_images(folder: Path, pipeline: Pipeline) -> None:
    first = pixels(build(folder), "zebra")
    pipeline.prompts.clear()
    assert not np.array_equal(first[0], pixels(build(folder, seed=1), "zebra")[0])
    build(folder, prompt="{text}, {0.__class__} {text}", steps=3, size=16).images_of("{text}!")
    assert pipeline.prompts[-1] == ["{text}!, {0.__class__} {text}!"]
    assert pipeline.options == {"num_inference_steps": 3, "height": 16, "width": 16}
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"others")
    calls = len(pipeline.prompts)
    build(folder).images_of("zebra")
    assert len(pipeline.prompts) == calls + 3


def test_files_stay_below_the_cache(folder: Path, pipeline: Pipeline, own_cache: Path) -> None:
    before = {path for path in own_cache.parent.rglob("*") if own_cache not in path.parents}
    images = build(folder).images_of("../../../escaped")
    assert images is not None
    assert images.path(0).is_relative_to(own_cache)  # type: ignore[union-attr]
    after = {path for path in own_cache.parent.rglob("*") if own_cache not in path.parents}
    assert after == before
    assert build(folder).images_of("  ") is None


def test_censored_images_are_left_out(folder: Path, pipeline: Pipeline) -> None:
    images = build(folder).images_of("censored thing")
    assert images is not None
    assert [name.rpartition("/")[2] for name in images.images] == ["00001.png", "00003.png"]


def test_texts_share_no_identity(folder: Path, pipeline: Pipeline) -> None:
    first, second = build(folder).images_of("a"), build(folder).images_of("b")
    assert first is not None and second is not None
    assert not set(first.identities or ()) & set(second.identities or ())


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("unet/unet.py", "is code, which is never run"),
        ("vae/diffusion_pytorch_model.bin", "is pickled and could run code"),
        ("text_encoder/pytorch_model.bin", "save_pretrained"),
    ],
)
def test_code_and_pickles_are_refused(folder: Path, file: str, says: str) -> None:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_bytes(b"x")
    with pytest.raises(DissectError, match=says):
        build(folder)


@pytest.mark.parametrize("index", ["[", "{}", '{"_class_name": ["own", "Pipeline"]}'])
def test_unknown_pipelines_are_refused(folder: Path, index: str) -> None:
    (folder / "model_index.json").write_text(index)
    with pytest.raises(DissectError, match=r"names no pipeline|can't be read"):
        build(folder)


def test_components_of_other_modules_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = SimpleNamespace(pipelines=SimpleNamespace(stable_diffusion=None))
    monkeypatch.setattr(generated, "_library", lambda: known)
    monkeypatch.setattr(generated, "find_spec", lambda name: name)
    checker = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    (folder / "model_index.json").write_text(json.dumps({**INDEX, **checker, "vae": [None, None]}))
    build(folder)
    for library in ("os", "__loader__", "a.b", 3):
        (folder / "model_index.json").write_text(json.dumps({**INDEX, "vae": [library, "system"]}))
        with pytest.raises(DissectError, match="component vae is of"):
            build(folder)


def test_wrong_settings(folder: Path, tmp_path: Path, pipeline: Pipeline) -> None:
    with pytest.raises(MissingResource, match=r"set text_images\.path to a folder"):
        build(tmp_path / "absent")
    with pytest.raises(DissectError, match=r"it must contain \{text\}"):
        build(folder, prompt="a photo")
    for name in ("images", "steps", "size", "batch_size"):
        with pytest.raises(DissectError, match=rf"text_images\.{name} is 0"):
            build(folder, **{name: 0})


def test_without_diffusers_the_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingResource, match=r"the package diffusers(.|\n)*\[generate\]"):
        build(folder)


def write_tiny(folder: Path) -> None:
    """A Stable Diffusion pipeline of a few thousand random weights."""
    import transformers
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

    torch.manual_seed(0)
    letters = [chr(n) for n in range(ord("a"), ord("z") + 1)]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<start>", "<end>"]
    own = folder.parent / "words"
    own.mkdir()
    (own / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(vocabulary)}))
    (own / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(
        str(own / "vocab.json"),
        str(own / "merges.txt"),
        unk_token="<end>",
        bos_token="<start>",
        eos_token="<end>",
        pad_token="<end>",
        model_max_length=77,
    )
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    text = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary), num_hidden_layers=1, projection_dim=8, **sizes
    )
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)


def test_a_tiny_stable_diffusion(tmp_path: Path) -> None:
    pytest.importorskip("diffusers", reason="needs the extra `generate`")
    folder = tmp_path / "tiny"
    write_tiny(folder)
    source = build(folder, images=3, steps=2, device="cpu")
    first = pixels(source, "zebra")
    assert [image.shape for image in first] == [(16, 16, 3)] * 3
    assert len({image.tobytes() for image in first}) == 3
    other = pixels(source, "lion")
    assert not np.array_equal(first[0], other[0])
    # Weights that no longer load are an error that names the folder.
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DissectError, match="tiny can't be loaded as a pipeline"):
        build(folder).images_of("zebra")
