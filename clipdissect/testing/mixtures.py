"""Networks with units for single concepts and for the sum of every two of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipdissect.targets import Target
from clipdissect.testing.filters import COLOURS, Filters
from clipdissect.testing.label_encoder import LabelEncoder
from clipdissect.testing.synthetic_units import Planted
from clipdissect.utils.hashing import Transform


class Mixtures(nn.Module):
    """The units of a network as the layer `singles`, and sums of two as the layer `pairs`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.singles, self.pairs = network, nn.Identity(), nn.Identity()

    def forward(self, images: Float[Tensor, "images 3 h w"]) -> Float[Tensor, "images units *map"]:
        single = self.singles(self.network(images))
        two = combinations(range(single.shape[1]), 2)
        sums: Tensor = self.pairs(torch.stack([single[:, a] + single[:, b] for a, b in two], 1))
        return sums


class Colours(nn.Module):
    """Maps of the colours of `synthetic_broden`, by the filters of `planted_filters`."""

    def __init__(self, filters: Filters) -> None:
        super().__init__()
        self.colour = filters.colour

    def forward(self, images: Float[Tensor, "images 3 h w"]) -> Float[Tensor, "images units h w"]:
        maps: Tensor = self.colour(torch.cat([images, images.square()], 1)).relu()
        return maps


class Labels(nn.Module):
    """Area shares of concepts, as the probe's labels say; 0 for images of another probe."""

    def __init__(self, encoder: LabelEncoder, texts: Sequence[str]) -> None:
        super().__init__()
        self.encoder = encoder
        self.columns = [encoder.masks.texts.index(text) for text in texts]

    def forward(self, images: Float[Tensor, "images 3 h w"]) -> Float[Tensor, "images units"]:
        unknown = torch.zeros(len(self.encoder.masks.texts) + 1)
        numbers = self.encoder.numbers_of(images)
        shares = [unknown if n is None else self.encoder.shares(n) for n in numbers]
        return torch.stack(shares)[:, self.columns].to(images.device)


def planted_colours() -> Planted:
    """Build `Mixtures` of colours, and its ground truth."""
    from torchvision import transforms

    network = Colours(Filters(16))  # the size of the templates for shapes, which aren't used
    texts = [f"{name}-c" for name in COLOURS]
    return _planted("planted_colours", network, transforms.ToTensor(), texts)


def planted_labels(encoder: LabelEncoder, texts: Sequence[str]) -> Planted:
    """Build `Mixtures` of area shares of the texts, which the encoder knows, and its truth."""
    return _planted("planted_labels", Labels(encoder, texts), encoder.preprocess, texts)


def _planted(name: str, network: nn.Module, preprocess: Transform, texts: Sequence[str]) -> Planted:
    mixtures = Mixtures(network).eval().requires_grad_(False)
    truth = {
        "singles": tuple(texts),
        "pairs": tuple(f"{a} OR {b}" for a, b in combinations(texts, 2)),
    }
    return Planted(Target(name, mixtures, preprocess, tuple(truth)), truth)
