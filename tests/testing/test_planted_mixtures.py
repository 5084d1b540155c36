"""Networks whose units add up two concepts."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torchvision.transforms.functional import to_tensor

from clipdissect import probe, testing
from clipdissect.images.decode import to_pil


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> probe.Probe:
    root = str(tmp_path_factory.mktemp("scenes"))
    found: probe.Probe = probe.build(
        "synthetic_broden", images=6, size=32, root=root, photographs=False, stamps="none"
    )
    return found


def layers_of(planted: testing.Planted, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the layers return for a batch."""
    outputs: dict[str, torch.Tensor] = {}
    for name in planted.target.layers:
        module = planted.target.model.get_submodule(name)
        module.register_forward_hook(lambda _, __, out, name=name: outputs.update({name: out}))
    planted.target.model(batch)
    return outputs


def test_pairs_are_sums_of_singles(images: probe.Probe) -> None:
    batch = torch.stack([to_tensor(to_pil(images.read(i))) for i in range(len(images))])
    encoder = testing.LabelEncoder(images)
    texts = ["red-c", "circle", "blue-c"]
    for planted in (testing.planted_colours(), testing.planted_labels(encoder, texts)):
        outputs, truth = layers_of(planted, batch), planted.truth
        singles, pairs = outputs["singles"], outputs["pairs"]
        two = [*combinations(range(singles.shape[1]), 2)]
        assert truth["pairs"] == tuple(
            f"{truth['singles'][a]} OR {truth['singles'][b]}" for a, b in two
        )
        for unit, (a, b) in enumerate(two):
            torch.testing.assert_close(pairs[:, unit], singles[:, a] + singles[:, b])
    assert images.masks is not None
    columns = [images.masks.texts.index(text) for text in texts]
    shares = [encoder.shares(image)[columns].tolist() for image in (0, 5)]
    assert singles[[0, 5]].tolist() == shares
    assert encoder.numbers_of(batch[[2, 4]]) == [2, 4]
    assert encoder.numbers_of(1 - batch[:1]) == [None]


def test_a_colour_of_the_filters_is_its_maps_mean(images: probe.Probe) -> None:
    planted = testing.planted_colours()
    red = torch.tensor([214, 32, 32]) / 255
    batch = red[None, :, None, None].expand(1, 3, 4, 4)
    means = layers_of(planted, batch)["singles"].mean((2, 3))[0]
    names = planted.truth["singles"]
    assert means[names.index("red-c")] == pytest.approx(1.0, abs=1e-4)
    assert means.sum() == pytest.approx(1.0, abs=1e-4)
