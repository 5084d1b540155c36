"""A tiny network and coloured squares to score descriptions on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from tiny import COLOURS, ColourEncoder, LiveNet, preprocess
from torch import Tensor
from torch.nn import functional as F

from clipdissect.errors import MissingResource
from clipdissect.targets import Target

CLASSES = ("red", "green", "blue", "yellow")
SHADES = 27  # images of each of six colours: 162, of which 32 score
WORDS = ("red", "green", "blue", "yellow", "magenta", "cyan")
Runner = Callable[..., Path]


def absent() -> Any:
    raise MissingResource("the weights of absent", ["here"], "get them")


class OtherEncoder(ColourEncoder):
    """Another network, which sees the squares of the colours."""

    def embed_images(self, images: Tensor) -> Tensor:
        return F.normalize(images.mean((2, 3)) ** 2, dim=-1)


def write_squares(root: Path) -> None:
    """One-coloured images from bright to dark, in a folder per colour."""
    for name in WORDS:
        (root / name).mkdir(parents=True)
        for shade in range(SHADES):
            colour = tuple(round(c * (1 - shade / 40)) for c in COLOURS[name])
            Image.new("RGB", (8, 8), colour).save(root / name / f"{shade:02}.png")


def tiny_target(bias: float = 0.0) -> Target:
    network = LiveNet()
    network.conv.bias.data += bias
    return Target("tiny", network, preprocess(), ("conv", "head"), "head", CLASSES)
