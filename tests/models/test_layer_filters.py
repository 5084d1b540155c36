"""Filters of layers: by type and by function."""

from __future__ import annotations

import re
from typing import Any

import pytest
from torch import nn
from torchvision.models import resnet18

from clipdissect import targets
from clipdissect.errors import DissectError


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return resnet18()


def layers_of(network: nn.Module, layers: Any) -> tuple[str, ...]:
    return targets.resolve(network, layers, lambda image: image).layers


def test_by_type_and_by_function(network: nn.Module) -> None:
    convolutions = layers_of(network, nn.Conv2d)
    assert len(convolutions) == 20
    assert convolutions[:3] == ("conv1", "layer1.0.conv1", "layer1.0.conv2")
    assert layers_of(network, (nn.Linear, nn.MaxPool2d)) == ("maxpool", "fc")
    large = layers_of(network, lambda name, m: name.endswith("conv1") and m.out_channels == 512)
    assert large == ("layer4.0.conv1", "layer4.1.conv1")
    assert layers_of(nn.DataParallel(network), nn.Linear) == ("fc",)


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (nn.Conv3d, "layers selects none of the network's 67 modules. Their types: Conv2d, Batch"),
        (lambda name, module: False, "layers selects none"),
        (lambda name: True, "the function layers(name, module) failed on conv1 with TypeError"),
        (int, "layers must be a list of names"),
        ((nn.Conv2d, int), "layers must be a list of names"),
        (nn.Conv2d(1, 1, 1), "layers must be a list of names"),
    ],
)
def test_mistakes(network: nn.Module, layers: Any, says: str) -> None:
    with pytest.raises(DissectError, match=re.escape(says)):
        layers_of(network, layers)
