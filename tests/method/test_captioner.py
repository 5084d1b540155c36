"""Captions of top images: a tiny random checkpoint, and scripted models, computed slowly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import ColourNet, preprocess, write_colours
from tiny_encoders import WORDS, word_tokenizer, write_hf
from tiny_saes import sae
from torch import Tensor

from clipdissect import method, probe
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError, MissingResource
from clipdissect.method import Job
from clipdissect.store import Store
from clipdissect.targets import Target

transformers = pytest.importorskip("transformers")
START, END = 2, 1


def write_captioner(folder: Path) -> Path:
    """A vision encoder and a text decoder with random weights."""
    torch.manual_seed(1)
    size = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    encoder = transformers.ViTConfig(**size, image_size=8, patch_size=4)
    decoder = transformers.BertConfig(
        **size,
        vocab_size=len(WORDS),
        is_decoder=True,
        add_cross_attention=True,
        max_position_embeddings=32,
        initializer_range=0.8,
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = transformers.VisionEncoderDecoderModel(config)
    for about in (model.config, model.generation_config):
        about.decoder_start_token_id, about.eos_token_id, about.pad_token_id = START, END, 0
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    word_tokenizer(True, 32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captioner(tmp_path_factory.mktemp("captioner"))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    write_colours(tmp_path / "images")
    target = Target("tiny", ColourNet(), preprocess(), ("conv",))
    images = probe.build("folder", root=str(tmp_path / "images"))
    settings = Settings(device="cpu", workers=0)
    return Job(target, images, images=3, top=2, settings=settings, store=Store(tmp_path / "store"))


@cache
def opened(folder: Path) -> tuple[Any, Any]:
    """The checkpoint as transformers opens it."""
    model = transformers.VisionEncoderDecoderModel.from_pretrained(folder).eval()
    return model, transformers.ViTImageProcessor.from_pretrained(folder)


def slow_log_prob(folder: Path, text: str, image: Image.Image) -> float:
    """Token by token, each with a pass of its own over the image and what came before."""
    model, processor = opened(folder)
    pixels = processor(images=image, return_tensors="pt").pixel_values
    total, before = 0.0, [START]
    for token in [*(WORDS.index(word) for word in text.split()), END]:
        with torch.no_grad():
            logits = model(pixel_values=pixels, decoder_input_ids=torch.tensor([before])).logits
        odds = [math.exp(x) for x in logits[0, -1].double().tolist()]
        total += math.log(odds[token] / sum(odds))
        before.append(token)
    return total


def test_log_probabilities_are_those_of_single_tokens(folder: Path) -> None:
    from clipdissect.method.captioning import EncoderDecoder, load

    model = load(str(folder), beams=3, max_tokens=5, device="cpu")
    assert isinstance(model, EncoderDecoder)
    texts = ["cat", "a photo of a dog", "dog dog"]
    images = [Image.new("RGB", (9, 9), c) for c in ("red", "navy")]
    found = model.log_probs(texts, images)
    slow = [[slow_log_prob(folder, text, image) for text in texts] for image in images]
    torch.testing.assert_close(
        found.double(), torch.tensor(slow, dtype=torch.float64), atol=1e-4, rtol=1e-4
    )
    total = sum(math.exp(x) for x in model.log_probs(WORDS[3:], images[:1])[0].tolist())
    assert 0 < total < 1


def test_captions_are_those_of_the_library(folder: Path) -> None:
    from clipdissect.method.captioning import load

    loaded: Any = load(str(folder), beams=4, max_tokens=4, device="cpu")
    image = Image.effect_noise((12, 9), 90).convert("RGB")
    model, processor = opened(folder)
    pixels = processor(image, return_tensors="pt")
    tokens = model.generate(
        pixels.pixel_values, num_beams=4, num_return_sequences=3, max_new_tokens=4
    )
    texts = transformers.AutoTokenizer.from_pretrained(folder).batch_decode(
        tokens, skip_special_tokens=True
    )
    assert loaded.captions([image], 3) == [list(dict.fromkeys(" ".join(t.split()) for t in texts))]
    # The mean of an image's features with themselves is the image.
    assert loaded.captions_of_mean([image, image.copy()], 3) == loaded.captions([image], 3)[0]


def test_descriptions_against_a_slow_computation(folder: Path, job: Job) -> None:
    from clipdissect.method.captioning import load

    settings: dict[str, Any] = {
        "lam": 0.5,
        "candidates": 2,
        "beams": 3,
        "max_tokens": 4,
        "prior_images": 4,
    }
    result = method.build("captioner", model=str(folder), **settings).describe(job)
    table = result.descriptions
    assert list(table["unit"]) == [0, 1, 2, 3]
    assert list(table["unit_flags"]) == [(), (), (), ("dead",)]
    assert table["description"][3] == ""
    model: Any = load(str(folder), 3, 4, "cpu")
    assert job.probe is not None
    names = list(job.probe.images)
    spread = [job.probe.read(len(names) * j // 4) for j in range(4)]
    unit = result.top_images.query("unit == 0")["image"]
    images = [job.probe.read(names.index(name)) for name in unit]
    candidates = {text for image in images for text in model.captions([image], 2)[0]}
    candidates |= set(model.captions_of_mean(images, 2))
    scores = {}
    for text in candidates - {""}:
        own = np.mean([slow_log_prob(folder, text, image) for image in images])
        prior = np.mean([math.exp(slow_log_prob(folder, text, image)) for image in spread])
        scores[text] = own - 0.5 * math.log(prior)
    best = max(scores, key=lambda text: scores[text])
    assert table["description"][0] == best
    assert table["similarity"][0] == pytest.approx(scores[best], abs=1e-3)
    assert result.run["digests"]["captioner"] == model.digest
    assert "decode" in result.run["seconds_of_images"]


class Scripted:
    """Captions by colour, and made-up probabilities."""

    def __init__(self) -> None:
        self.seen = 0

    def captions(self, images: Sequence[Image.Image], count: int) -> list[list[str]]:
        self.seen += len(images)
        return [self._of(image)[:count] for image in images]

    def _of(self, image: Image.Image) -> list[str]:
        red, green, blue = image.resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
        return ["red" if red > max(green, blue) else "dark", "picture"]


class WithProbabilities(Scripted):
    """Everything is a picture, with probability 1/2; the right colour has 1/4."""

    def log_probs(self, texts: Sequence[str], images: Sequence[Image.Image]) -> Tensor:
        return torch.tensor(
            [
                [
                    math.log(
                        0.5 if text == "picture" else 0.25 if text in self._of(image) else 0.01
                    )
                    for text in texts
                ]
                for image in images
            ]
        )


def test_an_object_with_one_method_is_judged_by_votes(job: Job) -> None:
    model = Scripted()
    table = method.build("captioner", model=model, candidates=1).describe(job).descriptions
    assert list(table["description"])[:2] == ["red", "dark"]
    assert list(table["similarity"])[:2] == [1.0, 1.0]
    assert model.seen <= 9  # each image once


def test_reranking_takes_the_specific_text(job: Job) -> None:
    describe = lambda lam: (  # noqa: E731
        method.build("captioner", model=WithProbabilities(), lam=lam, candidates=2, prior_images=24)
        .describe(job)
        .descriptions.set_index("unit")
        .loc[0]
    )
    assert describe(0.0)["description"] == "picture"
    assert describe(0.0)["similarity"] == pytest.approx(math.log(0.5))
    assert describe(1.0)["description"] == "red"
    # Of the 24 images, the four red ones say red.
    prior = (4 * 0.25 + 20 * 0.01) / 24
    assert describe(1.0)["similarity"] == pytest.approx(math.log(0.25) - math.log(prior), abs=1e-5)
    assert describe(1.0)["margin"] == pytest.approx(math.log(0.25) - math.log(prior), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": 3}, "object with a method captions"),
        ({"candidates": 0}, r"method\.candidates must be at least 1"),
        ({"candidates": 9}, r"method\.beams is 5"),
        ({"lam": -1.0}, r"method\.lam"),
    ],
)
def test_wrong_values(job: Job, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        method.build("captioner", **{"model": Scripted(), **changes}).describe(job)


def test_folders_that_will_not_do(job: Job, tmp_path: Path, folder: Path) -> None:
    def describe(path: Path) -> None:
        method.build("captioner", model=str(path)).describe(job)

    with pytest.raises(MissingResource, match=r"method\.model"):
        describe(tmp_path / "none")
    with pytest.raises(DissectError, match="no usable captioning model"):
        describe(write_hf(tmp_path / "clip"))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (pickled / file.name).write_bytes(file.read_bytes())
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(DissectError, match="no usable captioning model"):
        describe(pickled)


def test_latents_are_captioned_by_images_on_which_they_fire(job: Job) -> None:
    weight = torch.zeros(4, 2)
    weight[0, 0] = 1.0  # above 0.95 on the brightest red alone, with three images asked for
    assert job.target is not None
    latents = replace(job, target=job.target.with_sae(sae(weight, -0.95)))
    result = method.build("captioner", model=Scripted(), lam=0).describe(latents)
    table = result.descriptions
    assert table["similarity"].tolist()[0] == 1.0  # every top image is captioned red
    assert table["description"].tolist() == ["red", ""]
    assert table["fires"].tolist() == [1, 0]
    assert [tuple(flags) for flags in table["unit_flags"]] == [(), ("dead",)]
    assert result.top_images["image"].tolist() == ["red0.png"]
