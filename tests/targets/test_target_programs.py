"""Exported programs: layers return what the original network's do."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from torch import Tensor, nn

from clipdissect import targets
from clipdissect.capture.hooks import recording
from clipdissect.capture.infer_layout import read_layers
from clipdissect.capture.pooling import Summary
from clipdissect.errors import DissectError, MissingResource
from clipdissect.models.layer_patterns import kind_of
from clipdissect.targets import Target
from clipdissect.utils import hashing

PREPROCESS = {"image_size": 8}


class Block(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, 3, padding=1)
        self.norm = nn.BatchNorm2d(outside)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Net(nn.Module):
    """Blocks of one class, in-place operations, a module that runs twice, and one in a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(3, 4), Block(4, 5))
        self.twice = nn.ReLU(inplace=True)
        self.extra = nn.Conv2d(5, 5, 1)
        self.fancy = True
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        if self.fancy:
            x = self.extra(x)
        x = self.twice(self.twice(x) - 0.1)
        return self.head(x.mean((2, 3)))


LAYERS = ["blocks", "blocks.0.conv", "blocks.1.norm", "blocks.1", "extra", "head"]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return net


@pytest.fixture(scope="module")
def files(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    x = torch.rand(2, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = ({0: torch.export.Dim("batch")},)
        for name, images, shapes in (("any", x, batch), ("two", x, None), ("one", x[:1], None)):
            program = torch.export.export(net, (images,), dynamic_shapes=shapes)
            torch.export.save(program, folder / f"{name}.pt2")
    return folder


def outputs(model: nn.Module, layers: list[str], x: Tensor) -> dict[str, Tensor]:
    known = read_layers(Target("net", model, lambda image: x[0]), layers, Summary())
    with torch.no_grad(), recording(model, known) as recorder:
        model(x)
        return recorder.take(layers)


def build(files: Path, name: str, **parameters: Any) -> Target:
    return targets.build("exported", path=str(files / name), preprocess=PREPROCESS, **parameters)


def test_layers_return_what_the_networks_do(net: nn.Module, files: Path) -> None:
    found = build(files, "any.pt2", layers=["all_convs", "blocks.?"], class_layer="head")
    assert set(found.layers) == {
        "blocks.0.conv",
        "blocks.1.conv",
        "extra",
        "blocks.0",
        "blocks.1",
    }
    torch.manual_seed(1)
    for images in (3, 5):
        x = torch.randn(images, 3, 8, 8)
        expected, got = outputs(net, LAYERS, x), outputs(found.model, LAYERS, x)
        for layer in LAYERS:
            assert torch.allclose(expected[layer], got[layer], atol=1e-5), layer
        with torch.no_grad():
            assert torch.allclose(net(x), found.model(x), atol=1e-5)
    assert kind_of(found.model.get_submodule("blocks.1")) == "Block"
    assert not any(m._forward_hooks for m in found.model.modules())


def test_digest_is_of_the_program(net: nn.Module, files: Path, tmp_path: Path) -> None:
    first = hashing.hash_model(build(files, "any.pt2").model)
    code = (
        f"from pathlib import Path; from test_target_programs import build; "
        f"from clipdissect.utils import hashing; "
        f"folder = Path({str(files)!r}); "
        f"print(hashing.hash_model(build(folder, 'any.pt2').model))"
    )
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=Path(__file__).parent,
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": path, "HOME": str(tmp_path)},
    )
    assert done.stdout.split() == [first]
    changed = build(files, "any.pt2").model
    with torch.no_grad():
        next(iter(changed.parameters())).add_(1)
    assert hashing.hash_model(changed) != first


def test_exported_for_some_number_of_images(files: Path) -> None:
    with pytest.raises(DissectError, match=r"takes 2 images at once.*dynamic_shapes"):
        build(files, "two.pt2")
    one = build(files, "one.pt2").model
    assert outputs(one, ["head"], torch.rand(1, 3, 8, 8))["head"].shape == (1, 3)
    with pytest.raises(DissectError, match="batch_size=1"):
        one(torch.rand(2, 3, 8, 8))


def test_files_that_are_no_programs(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"no program")
    with pytest.raises(DissectError, match="is not a"):
        targets.build("exported", path=str(tmp_path / "x.pt"))
    with pytest.raises(MissingResource):
        targets.build("exported", path=str(tmp_path / "gone.pt"))


def test_scripted_network_given_directly_is_refused(net: nn.Module) -> None:
    compile_: Callable[..., Any] = torch.jit.script
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = compile_(nn.Sequential(nn.ReLU()))
    with pytest.raises(DissectError, match="TorchScript programs are not supported"):
        Target("x", script, lambda image: image)  # type: ignore[arg-type, return-value]
