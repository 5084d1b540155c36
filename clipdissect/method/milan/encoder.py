"""The image encoder of MILAN: maps of a ResNet at five depths, averaged over masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 224  # of exemplars, in pixels
FEATURES = {"resnet18": 1024, "resnet50": 3904, "resnet101": 3904}  # channels of the five maps


class PyramidEncoder(nn.Module):
    """Maps of a ResNet's first convolution, before batch norm, and of its four layers.

    Args:
        network: one of `FEATURES`, built with random weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: str) -> None:
        super().__init__()
        from torchvision import models

        self.network: Any = getattr(models, network)(weights=None)
        self.network.fc = nn.Identity()
        self.features = FEATURES[network]
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1, dtype=torch.float32))
        self.register_buffer("std", torch.ones(1, 3, 1, 1, dtype=torch.float32))

    def forward(self, images: UInt8[Tensor, "images 3 h w"]) -> list[Float[Tensor, "images _ _ _"]]:
        """Return the maps `[images, channels, rows, columns]`, the finest first."""
        net = self.network
        first = net.conv1((images.float() / 255 - self.mean) / self.std)
        maps = [first]
        x = net.maxpool(net.bn1(first).relu())
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = layer(x)
            maps.append(x)
        return maps


def masked_means(
    maps: Sequence[Float[Tensor, "_ _ _"]], masks: Float[Tensor, "masks h w"]
) -> Float[Tensor, "masks features"]:
    """Return the means of one image's maps `[channels, rows, columns]` over masks.

    A mask is interpolated to each map's size, bilinearly and without antialiasing, as in the
    released code; one that vanishes there has features 0.
    """
    means = []
    for values in maps:
        small = F.interpolate(masks[:, None], values.shape[1:], mode="bilinear")[:, 0].flatten(1)
        total = small.sum(1, keepdim=True)
        means.append((small / total.where(total > 0, 1.0)) @ values.flatten(1).T)
    return torch.cat(means, 1)
