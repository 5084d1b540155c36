"""Networks of the user's own: by their code, from files, with their own preprocessing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from clipdissect import targets as target
from clipdissect.errors import DissectError, MissingResource
from clipdissect.targets.preprocess import ASSUMED, image_transform

CODE = """
import torch
from torch import nn
from torchvision import transforms
from clipdissect.targets import Target

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.head = nn.Linear(width, 3)
    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))

steps = transforms.Compose([transforms.Resize((6, 6)), transforms.ToTensor()])

def build(width=4):
    torch.manual_seed(0)
    return Net(width)

def with_steps(width=4):
    return build(width), steps

def whole():
    return Target("mine", build(), steps, ("head",), "head", ("a", "b", "c"), ("a note",))

def number():
    return 3

def fails():
    raise KeyError("no data")
"""
HUB = """
dependencies = ["torch"]
from net_of_user import build as net, number
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a module of the user's."""
    (tmp_path / "net_of_user.py").write_text(CODE)
    (tmp_path / "broken_net.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("net_of_user", "broken_net", "hubconf"):
        sys.modules.pop(name, None)


def module(factory: str = "net_of_user:build", **parameters: Any) -> target.Target:
    return target.build("module", factory=factory, **parameters)


def test_factory_of_the_current_folder(folder: Path) -> None:
    found = module(arguments={"width": 5}, layers=["**"], preprocess={"image_size": 8})
    assert (found.name, found.layers, found.notes) == ("build", ("conv", "head"), ())
    assert found.model.conv.out_channels == 5
    assert not found.model.training
    assert module().notes == (ASSUMED,)


def test_factory_brings_its_transform_or_a_target(folder: Path) -> None:
    image = Image.new("RGB", (20, 10))
    assert module("net_of_user:with_steps").preprocess(image).shape == (3, 6, 6)
    found = module("net_of_user:whole")
    assert (found.name, found.layers, found.class_names) == ("mine", ("head",), ("a", "b", "c"))
    assert found.notes == ("a note",)
    changed = module("net_of_user:whole", layers=["conv"], preprocess={"image_size": 9})
    assert changed.layers == ("conv",)
    assert changed.preprocess(image).shape == (3, 9, 9)
    by_path = module("net_of_user:build", transform="net_of_user:steps")
    assert by_path.preprocess(image).shape == (3, 6, 6)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"factory": "net_of_user"}, "must look like package.module:name"),
        ({"factory": "net_of_usr:build"}, "there is no module net_of_usr in"),
        (
            {"factory": "broken_net:build"},
            r"importing broken_net raised ModuleNotFoundError.*"
            r"broken_net\.py, line 1",
        ),
        ({"factory": "net_of_user:bild"}, "Did you mean build"),
        ({"factory": "net_of_user:steps.transforms"}, "a list, which can't be called"),
        ({"factory": "net_of_user:number"}, "it returned a int"),
        ({"factory": "net_of_user:fails"}, r"raised KeyError: 'no data' \(.*net_of_user\.py, line"),
        ({"arguments": {"widht": 3}}, "TypeError.*widht"),
        ({"arguments": 3}, r"such as \{width: 8\}; got 3"),
        ({"classes": "imagenet"}, "has 1000 names, but the layer of classes has 3 units"),
        ({"class_layer": "haed"}, "Did you mean head"),
        ({"preprocess": {"image": 3}}, "Did you mean image_size"),
        ({"preprocess": {"image_size": 8}, "transform": "net_of_user:steps"}, "not both"),
        ({"layers": ["con*z"]}, "unknown layer pattern"),
    ],
)
def test_mistakes_are_told(folder: Path, parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        module(**parameters)


def test_class_names_of_a_file(folder: Path) -> None:
    (folder / "names.txt").write_text("cat\nwheel\nsky, air\n\n")
    found = module(classes="names.txt")
    assert (found.class_layer, found.class_names) == ("head", ("cat", "wheel", "sky, air"))
    with pytest.raises(MissingResource, match="one name per line"):
        module(classes="gone.txt")
    (folder / "names.txt").write_text("cat\n\nwheel\nsky, air\n")
    with pytest.raises(DissectError, match="line 2 is empty"):
        module(classes="names.txt")


def test_preprocess_resizes_crops_and_normalises() -> None:
    image = Image.new("RGB", (40, 20), (255, 0, 0))
    image.paste((0, 0, 255), (0, 0, 10, 20))
    plain = image_transform(10, mean=[0.0] * 3, std=[1.0] * 3)
    assert plain(image).shape == (3, 10, 10)
    assert plain(image)[0].min() == 1  # the blue edge is cropped off
    squeezed = image_transform([10, 12], [10, 12], [0.0] * 3, [1.0] * 3, "nearest")
    assert squeezed(image).shape == (3, 10, 12)
    assert squeezed(image)[2, 0].tolist() == [1.0] * 3 + [0.0] * 9
    grey = image_transform(10, mean=[0.5], std=[0.25])
    assert grey(image).shape == (1, 10, 10)
    assert grey(image)[0, 5, 5].item() == pytest.approx((76 / 255 - 0.5) / 0.25)  # Rec. 601 luma


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"image_size": 0}, "image_size must be pixels"),
        ({"image_size": [1, 2, 3]}, "image_size must be pixels"),
        ({"resize": 100}, "less than the image_size"),
        ({"interpolation": "bicubik"}, "Did you mean bicubic"),
        ({"mean": [0.5]}, "as many numbers"),
        ({"std": [1.0, 0.0, 1.0]}, "above 0"),
        ({"std": "wide"}, "a number for each channel"),
    ],
)
def test_preprocess_that_makes_no_sense(parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        image_transform(**parameters)


def checkpoint(path: Path, **parameters: Any) -> target.Target:
    given = {"factory": "net_of_user:Net", "preprocess": {"image_size": 8}, **parameters}
    return target.build("checkpoint", checkpoint=str(path), **given)


@pytest.mark.parametrize("wrapped", ["", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.module."])
def test_checkpoint_with_wrappers(folder: Path, prefix: str, wrapped: str) -> None:
    state = nn.Module.state_dict(module().model)
    state = {prefix + name: tensor + 1 for name, tensor in state.items()}
    torch.save({wrapped: state, "epoch": 3} if wrapped else state, folder / "w.pth")
    found = checkpoint(folder / "w.pth")
    assert found.name == "Net/w.pth"
    assert found.model.head.bias.equal(state[f"{prefix}head.bias"])


def test_checkpoint_as_safetensors(folder: Path) -> None:
    state = module().model.state_dict()
    save_file(state, folder / "w.safetensors")
    assert checkpoint(folder / "w.safetensors").model.conv.weight.equal(state["conv.weight"])


def test_checkpoint_that_does_not_fit_says_what_differs(folder: Path) -> None:
    state = dict(module().model.state_dict())
    state["extra"] = state.pop("conv.bias")
    state["head.bias"] = torch.zeros(9)
    torch.save(state, folder / "w.pth")
    with pytest.raises(DissectError) as caught:
        checkpoint(folder / "w.pth")
    for part in (
        "1 missing (conv.bias)",
        "1 unexpected (extra)",
        "1 of another shape",
        "head.bias (9,) in the file, (3,) in the network",
    ):
        assert part in str(caught.value)
    with pytest.raises(DissectError, match="returned a int"):
        checkpoint(folder / "w.pth", factory="net_of_user:number")


def test_whole_pickled_network_is_refused_with_a_way_out(folder: Path) -> None:
    torch.save(module().model, folder / "whole.pth")
    with pytest.raises(DissectError, match=r"safely.*can be converted once"):
        checkpoint(folder / "whole.pth")


def test_hub_folder(folder: Path) -> None:
    (folder / "hubconf.py").write_text(HUB)
    found = target.build("hub_dir", folder=str(folder), entry="net", arguments={"width": 6})
    assert (found.name, found.model.conv.out_channels) == ("net", 6)
    with pytest.raises(DissectError, match=r"hubconf\.py raised .*nett"):
        target.build("hub_dir", folder=str(folder), entry="nett")
    with pytest.raises(DissectError, match="returned a int, not a network"):
        target.build("hub_dir", folder=str(folder), entry="number")
    with pytest.raises(MissingResource, match="folder with a hubconf"):
        target.build("hub_dir", folder=str(folder / "gone"), entry="net")
