"""The preprocessing of networks that are given without, of each library."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_encoders import network, register
from torch import nn
from torchvision import models

from clipdissect import targets
from clipdissect.errors import DissectError
from clipdissect.images.image_processor import ImageProcessor
from clipdissect.targets import Target
from clipdissect.utils import hashing


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for torch's downloads."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def same(target: Target, transform: Any) -> bool:
    return hashing.hash_transform(target.preprocess) == hashing.hash_transform(transform)


def test_torchvision_where_all_weights_agree(
    downloads: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = targets.resolve(nn.DataParallel(models.squeezenet1_1()))
    assert same(found, models.SqueezeNet1_1_Weights.IMAGENET1K_V1.transforms())
    (note,) = found.notes
    assert note.startswith(
        "preprocess wasn't given; used that of SqueezeNet1_1_Weights.IMAGENET1K_V1 (that the "
        "network's tensors are those weights isn't checked): ImageClassification( crop_size=[224]"
    )
    assert note in caplog.text
    assert found.weights is None


def test_torchvision_where_weights_differ(downloads: Path) -> None:
    says = (
        "torchvision's weights for this MobileNetV2 differ in it, and a network doesn't record "
        "which it has. Set preprocess to torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1 or "
        "torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V2, or"
    )
    with pytest.raises(DissectError, match=re.escape(says)):
        targets.resolve(models.mobilenet_v2())


def test_torchvision_by_the_tensors_of_a_downloaded_file(downloads: Path) -> None:
    model, weights = models.mobilenet_v2(), models.MobileNet_V2_Weights.IMAGENET1K_V2
    file = downloads / weights.url.rsplit("/", 1)[-1]
    torch.save(model.state_dict(), file)
    found = targets.resolve(model)
    assert same(found, weights.transforms())  # resizes to 232, V1 to 256
    assert found.weights == "IMAGENET1K_V2"
    assert "whose tensors it has" in found.notes[0]
    with torch.no_grad():
        model.classifier[1].bias[3] += 1  # trained further
    with pytest.raises(DissectError, match="doesn't record which it has"):
        targets.resolve(model)
    file.write_bytes(b"damaged")
    with pytest.raises(DissectError, match="doesn't record which it has"):
        targets.resolve(model)


@pytest.mark.parametrize(
    "model",
    [
        models.squeezenet1_1(num_classes=10),
        nn.Sequential(models.squeezenet1_1()),
        nn.Conv2d(3, 4, 3),
    ],
)
def test_a_network_with_no_record(model: nn.Module) -> None:
    with pytest.raises(DissectError, match="preprocess is needed with a plain network"):
        targets.resolve(model)


def test_googlenet_with_and_without_its_auxiliary_classifiers(downloads: Path) -> None:
    expected = models.GoogLeNet_Weights.IMAGENET1K_V1.transforms()
    for has_auxiliary in (False, True):
        model = models.googlenet(aux_logits=has_auxiliary, init_weights=False)
        assert same(targets.resolve(model), expected)


def test_timm() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", img_size=96, depth=1)
    found = targets.resolve(model)
    assert "timm's configuration of vit_tiny_patch16_224.augreg_in21k_ft_in1k" in found.notes[0]
    resize, crop, _, normalize = found.preprocess.transforms  # type: ignore[attr-defined]
    assert resize.size == 106  # 96 / 0.9, its crop_pct
    assert tuple(crop.size) == (96, 96)
    assert normalize.mean.tolist() == [0.5, 0.5, 0.5]


def test_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("open_clip")
    register(monkeypatch, "ViT-B-16")
    clip = network("ViT-B-16")
    for model in (clip, clip.visual):
        found = targets.resolve(model)
        assert "the preprocess_cfg that open_clip set" in found.notes[0]
        assert found.preprocess.transforms[0].size == 32  # type: ignore[attr-defined]
        assert found.preprocess.transforms[-1].mean[0] == 0.48145466  # type: ignore[attr-defined]


def test_transformers_from_the_networks_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        image_size=32,
    )
    model = transformers.ViTModel(config)
    with pytest.raises(DissectError, match="preprocess is needed"):
        targets.resolve(model)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    model.save_pretrained(tmp_path)
    with pytest.raises(DissectError, match="preprocess is needed"):
        targets.resolve(transformers.ViTModel.from_pretrained(tmp_path))
    processor.save_pretrained(tmp_path)
    found = targets.resolve(transformers.ViTModel.from_pretrained(tmp_path))
    assert f"the image processor in {tmp_path}" in found.notes[0]
    assert same(found, ImageProcessor(processor))


def test_what_is_given_counts() -> None:
    model, weights = models.mobilenet_v2(), models.MobileNet_V2_Weights.IMAGENET1K_V2
    found = targets.resolve(model, preprocess=weights)
    assert same(found, weights.transforms())
    assert found.notes == ()
    with pytest.raises(DissectError, match="got 'IMAGENET1K_V2'"):
        targets.resolve(model, preprocess="IMAGENET1K_V2")
