"""Every layer of many real architectures is read as a second reading of it says."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from census import Net, all_nets, compared
from conftest import ROOT
from torch import Tensor, nn
from torchvision import models

from clipdissect.capture.infer_layout import try_out
from clipdissect.capture.pooling import Summary
from clipdissect.targets import Target

NETS = all_nets()
DOCS = (ROOT / "docs" / "capture.md").read_text(encoding="utf-8")
CNNS = [
    "convnext_atto",
    "densenet121",
    "dpn68",
    "efficientnet_lite0",
    "ghostnet_050",
    "inception_v3",
    "mobilenetv3_small_050",
    "regnetx_002",
    "resnet18",
    "swin_tiny_patch4_window7_224",
    "vgg11",
]


@pytest.mark.parametrize("net", NETS, ids=lambda net: f"{net.library}-{net.name}")
def test_layers_are_read_as_the_docs_say(net: Net) -> None:
    count, wrong = compared(net)
    assert not wrong
    row = re.search(rf"\| {net.library} \| {re.escape(net.name)} \| (\d+) \|", DOCS)
    assert row, (
        f"docs/capture.md has no row of {net.library} {net.name}: run tests/support/census.py"
    )
    assert count > 0.9 * int(row.group(1))  # other releases have some modules more or fewer


def units(model: nn.Module, layers: list[str], size: int) -> list[int]:
    """How many units the layers have, from shapes alone."""
    blank = torch.zeros(3, size, size)
    trial = try_out(Target("net", model.eval(), lambda _: blank), layers)
    readings = [trial.read(layer, Summary()) for layer in layers]
    return [one.units_of(trial.passes[0].shapes[one.layer]) for one in readings]


@pytest.mark.parametrize("size", [128, 224, 256])
@pytest.mark.parametrize("name", CNNS)
def test_units_are_those_of_timms_feature_info(name: str, size: int) -> None:
    is_swin = name.startswith("swin")
    known = {"img_size": size, "window_size": size // 32} if is_swin else {}
    with torch.device("meta"):
        model = timm.create_model(name, **known)
    taps = [
        (tap["module"], tap["num_chs"])
        for tap in model.feature_info
        if tap["module"] in dict(model.named_modules())
    ]
    assert len(taps) >= 3
    layers, expected = map(list, zip(*taps, strict=True))
    assert units(model, layers, size) == expected


@pytest.mark.parametrize("size", [128, 224, 256])
def test_a_width_inside_a_block_is_no_reason_to_turn_its_maps(size: int) -> None:
    # At 256 pixels denseblock2 has 512 maps of 32 x 32, and 32 is also its growth rate.
    with torch.device("meta"):
        densenet = models.densenet121(weights=None)
        googlenet = models.googlenet(weights=None, init_weights=False)
    blocks = [f"features.denseblock{n}" for n in range(1, 5)]
    assert units(densenet, blocks, size) == [256, 512, 1024, 1024]
    mixed = ["inception3a", "inception3b", "inception4a", "inception4e", "inception5b"]
    assert units(googlenet, mixed, size) == [256, 480, 512, 832, 1024]


class Cubes(nn.Module):
    """Blocks whose outputs have three equal sides, with channels first and last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.first, self.last = nn.Sequential(nn.Identity()), nn.Sequential(nn.Identity())

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.first(self.conv(images)).permute(0, 2, 3, 1))


def test_equal_sides_are_told_apart_by_an_input_of_twice_the_size() -> None:
    trial = try_out(Target("net", Cubes(), lambda _: torch.zeros(3, 8, 8)), ["first", "last"])
    assert trial.passes[0].shapes["first"] == (2, 8, 8, 8)
    assert [trial.read(name, Summary()).units for name in ("first", "last")] == [1, 3]
