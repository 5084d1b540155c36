"""Models of transformers, from folders that the tests write."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_encoders import write_hf

from clipdissect import encoder
from clipdissect.errors import DissectError, MissingResource
from clipdissect.utils import hashing

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hf")
    return {kind: write_hf(root / kind, kind) for kind in ("clip", "siglip")}


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_same_embeddings_as_the_model_by_hand(folders: dict[str, Path], kind: str) -> None:
    found = encoder.build("hf", model=str(folders[kind]))
    image = Image.effect_noise((40, 30), 90).convert("RGB")
    texts = ["cat", "a photo of a dog"]
    with torch.no_grad():
        images = found.embed_images(found.preprocess(image)[None])
    embeds = found.embed_texts(texts)

    name = "CLIP" if kind == "clip" else "Siglip"
    model = getattr(transformers, f"{name}Model").from_pretrained(folders[kind]).eval()
    processor = getattr(transformers, f"{name}ImageProcessor").from_pretrained(folders[kind])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[kind])
    with torch.no_grad():
        out = model(
            **tokenizer(
                texts,
                padding="max_length",
                max_length=8,
                return_tensors="pt",
                return_attention_mask=kind == "clip",  # SigLIP was trained without one
            ),
            pixel_values=processor(image, return_tensors="pt").pixel_values,
        )
    torch.testing.assert_close(images, out.image_embeds)
    torch.testing.assert_close(embeds, out.text_embeds)
    assert found.name == f"hf/{kind}"
    assert found.encoder.context_length == 8


def test_counts_the_special_tokens_that_the_tokenizer_adds(folders: dict[str, Path]) -> None:
    counts = {
        kind: encoder.build("hf", model=str(folder)).count_tokens(["a cat", "a " * 20])
        for kind, folder in folders.items()
    }
    assert counts == {"clip": [4, 22], "siglip": [3, 21]}


def test_preprocessing_is_a_transform(folders: dict[str, Path]) -> None:
    transform = encoder.build("hf", model=str(folders["clip"])).preprocess
    again = pickle.loads(pickle.dumps(transform))  # noqa: S301 - our own, as workers get it
    assert hashing.hash_transform(transform) == hashing.hash_transform(again)
    assert transform(Image.new("RGB", (40, 30))).shape == (3, 16, 16)


def test_digests_change_with_weights_and_tokenizer_not_with_the_place(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    def digests(folder: Path) -> tuple[str, str]:
        found = encoder.build("hf", model=str(folder))
        return found.image_digest, found.text_digest

    first = digests(folders["clip"])
    copy = Path(shutil.copytree(folders["clip"], tmp_path / "copy"))
    assert digests(copy) == first
    rules = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(rules.replace('"dog"', '"cow"'))
    image, text = digests(copy)
    assert image == first[0]
    assert text != first[1]
    _change_weights(copy)
    changed = digests(copy)[0]
    assert changed != first[0]
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text(config.replace("quick_gelu", "gelu"))
    assert digests(copy)[0] != changed


def _change_weights(folder: Path) -> None:
    model = transformers.CLIPModel.from_pretrained(folder)
    with torch.no_grad():
        model.visual_projection.weight[0, 0] += 1
    model.save_pretrained(folder)


def test_weights_that_do_not_fit(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(folders["clip"], tmp_path / "copy"))
    state = load_file(copy / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(DissectError, match=r"don't fit its CLIPModel: missing: visual_projection"):
        encoder.build("hf", model=str(copy))
    state["visual_projection.weight"] = torch.zeros(16, 15)
    save_file(state, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(DissectError, match=r"mismatched: .*visual_projection"):
        encoder.build("hf", model=str(copy))


def test_not_an_image_text_model(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(DissectError, match="BertModel, which has no features of both"):
        encoder.build("hf", model=str(tmp_path / "bert"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DissectError, match="not a usable model folder"):
        encoder.build("hf", model=str(tmp_path / "empty"))


def test_a_folder_without_a_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folders["clip"], tmp_path / "copy"))
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(DissectError, match=r"are its files, such as tokenizer\.json, there"):
        encoder.build("hf", model=str(copy))


def test_a_model_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingResource, match=r"encoder\.model=/path") as caught:
        encoder.build("hf", model="openai/clip-vit-base-patch16", cache=str(tmp_path))
    assert str(tmp_path) in caught.value.looked
