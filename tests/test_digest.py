"""Digests change with everything that numbers depend on, and with nothing else."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tiny import ColourNet, preprocess
from torch import Tensor, nn
from torchvision import transforms

from clipdissect import digest
from clipdissect.errors import DissectError


def test_equal_networks_have_equal_digests_in_any_mode() -> None:
    assert digest.of_model(ColourNet()) == digest.of_model(ColourNet().train())


def test_one_changed_weight_or_buffer_is_noticed() -> None:
    before = digest.of_model(ColourNet())
    changed = ColourNet()
    with torch.no_grad():
        changed.head.weight[0, 0] += 1e-6
    assert digest.of_model(changed) != before
    norm, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    other.running_mean += 1
    assert digest.of_model(norm) != digest.of_model(other)


def test_attributes_without_tensors_are_noticed() -> None:
    assert digest.of_model(nn.LeakyReLU(0.1)) != digest.of_model(nn.LeakyReLU(0.2))
    assert digest.of_model(nn.Conv2d(1, 1, 1, stride=1)) != digest.of_model(nn.MaxPool2d(1))


def test_code_is_noticed() -> None:
    class One(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    first = digest.of_model(One())

    class One(nn.Module):  # type: ignore[no-redef]
        def forward(self, x: Tensor) -> Tensor:
            return x + 2

    assert digest.of_model(One()) != first


def test_half_and_scalar_tensors() -> None:
    module = nn.Module()
    module.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.bfloat16))
    other = nn.Module()
    other.scale = nn.Parameter(torch.tensor(3.0, dtype=torch.bfloat16))
    assert digest.of_model(module) != digest.of_model(other)


def test_transforms_by_what_they_do() -> None:
    base = digest.of_transform(preprocess(8))
    assert digest.of_transform(lambda image: preprocess(8)(image)) == base
    assert digest.of_transform(preprocess(9)) != base
    shifted = transforms.Compose([preprocess(8), transforms.Normalize([0.1] * 3, [1.0] * 3)])
    assert digest.of_transform(shifted) != base
    nearest = transforms.Compose([
        transforms.Resize((8, 8), interpolation=transforms.InterpolationMode.NEAREST),
        transforms.ToTensor(),
    ])  # fmt: skip
    assert digest.of_transform(nearest) != base


def test_random_transform_is_refused() -> None:
    random = transforms.Compose([transforms.RandomCrop(30), transforms.ToTensor()])
    with pytest.raises(DissectError, match="evaluation transform"):
        digest.of_transform(random)


def test_transform_without_tensor_is_refused() -> None:
    with pytest.raises(DissectError, match="ToTensor"):
        digest.of_transform(transforms.Resize(8))
    with pytest.raises(DissectError, match=r"\(1, 3, 8, 8\)"):
        digest.of_transform(lambda image: preprocess(8)(image)[None])


def test_of_distinguishes_structure() -> None:
    assert digest.of("a", "bc") != digest.of("ab", "c")
    assert digest.of(["a"], "b") != digest.of(["a", "b"])


def test_pattern_is_fixed() -> None:
    image = digest._pattern(5, 4)
    assert isinstance(image, Image.Image)
    assert image.getpixel((1, 1)) == (4, 0, 0)
