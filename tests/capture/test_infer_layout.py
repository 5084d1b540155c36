"""How outputs are read: axes of images, units and positions, prefix tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import COLOURS, ColourEncoder, write_colours
from torch import Tensor, nn

import clipdissect
from clipdissect.capture.infer_layout import read_layers, try_out, units_axis
from clipdissect.capture.output_layout import Declared, Evidence, Output, Reading, read, summarise
from clipdissect.capture.pooling import Summary
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.targets import Target

NOTHING = Evidence((8, 8), frozenset(), {}, {})


def of_shape(
    *shape: int,
    kind: str = "auto",
    layout: str = "auto",
    own: str | None = None,
    grids: set[tuple[int, int]] | None = None,
    size: tuple[int, int] = (8, 8),
    **says: Any,
) -> Reading:
    evidence = Evidence(size, frozenset(grids or ()), {}, {})
    return read(Output("layer", shape, 0, own), Summary(kind, layout), evidence, Declared(**says))


def reading(model: nn.Module, layer: str, kind: str = "auto", size: int = 8) -> Reading:
    target = Target("net", model, lambda _: torch.zeros(3, size, size))
    return read_layers(target, [layer], Summary(kind))[layer]


def test_vectors_are_taken_as_they_are() -> None:
    values = torch.tensor([[1.0, 2.0]])
    assert summarise(values, of_shape(1, 2, kind="max")).equal(values)


def test_maps_by_mean_and_max() -> None:
    maps = torch.arange(8.0).reshape(1, 2, 2, 2)
    assert summarise(maps, of_shape(1, 2, 2, 2, own="first")).tolist() == [[1.5, 5.5]]
    assert summarise(maps, of_shape(1, 2, 2, 2, kind="max", own="first")).tolist() == [[3, 7]]
    with pytest.raises(DissectError, match="no class token"):
        of_shape(1, 2, 2, 2, kind="cls")


@pytest.mark.parametrize(
    ("tokens", "says", "kind", "expected"),
    [
        (4, {}, "auto", ("mean", 0, (2, 2))),
        (4, {"class_token": True, "prefix": 1}, "auto", ("mean", 0, (2, 2))),  # it joins later
        (5, {}, "auto", ("cls", 1, (2, 2))),
        (5, {}, "mean", ("mean", 1, (2, 2))),
        (5, {}, "max", ("max", 1, (2, 2))),
        (5, {"pooled": True}, "auto", ("mean", 1, (2, 2))),
        (5, {"registers": 1, "class_token": False}, "auto", ("mean", 1, (2, 2))),
        (6, {"prefix": 2}, "auto", ("cls", 2, (2, 2))),
        (9, {"registers": 4}, "auto", ("cls", 5, (2, 2))),
        (8, {"registers": 4}, "auto", ("mean", 4, (2, 2))),
        (1, {}, "cls", ("mean", 0, (1, 1))),
        (50, {}, "auto", ("mean", 0, None)),
        (50, {"class_token": True}, "auto", ("cls", 0, None)),
    ],
)
def test_patches_and_prefix_tokens_are_told_by_their_number(
    tokens: int, says: dict[str, Any], kind: str, expected: tuple[str, int, Any]
) -> None:
    found = of_shape(2, tokens, 7, kind=kind, grids={(2, 2)}, **says)
    assert (found.kind, found.prefix, found.grid) == expected
    values = torch.arange(float(2 * tokens * 7)).reshape(2, tokens, 7)
    patches = values[:, found.prefix :]
    by_hand = {"cls": values[:, 0], "mean": patches.mean(1), "max": patches.amax(1)}
    assert summarise(values, found).equal(by_hand[found.kind])


@pytest.mark.parametrize(
    ("tokens", "says"),
    [(4, {}), (4, {"class_token": True}), (8, {"registers": 4}), (7, {"class_token": False})],
)
def test_class_token_where_there_is_none_is_an_error(tokens: int, says: dict[str, Any]) -> None:
    with pytest.raises(DissectError, match="no class token: use summary mean or max"):
        of_shape(2, tokens, 7, kind="cls", grids={(2, 2)}, **says)


def test_grids_without_a_convolution() -> None:
    assert of_shape(2, 65, 7).grid == (8, 8)
    assert of_shape(2, 6, 7, size=(4, 6)).grid == (2, 3)
    assert of_shape(2, 7, 7, size=(4, 6)).prefix == 1
    assert of_shape(2, 68, 7, prefix=4).prefix == 4
    assert of_shape(2, 49, 7, grids={(14, 14)}).grid == (7, 7)  # patches merged


def test_conv1d_puts_units_first() -> None:
    assert of_shape(2, 7, 4, own="first").units == 1
    assert of_shape(2, 70, 4, grids={(2, 2)}).units == 1  # maps with flattened positions
    assert of_shape(2, 7, 5, own="last", grids={(2, 2)}).units == 2


@pytest.mark.parametrize("size", [(8, 8), (8, 16), (64, 43)])
def test_layout_by_proportions(size: tuple[int, int]) -> None:
    h, w = -(-size[0] // 4), -(-size[1] // 4)
    assert of_shape(2, 50, h, w, size=size).units == 1
    assert of_shape(2, h, w, 50, size=size).units == 3


@pytest.mark.parametrize("shape", [(2, 7, 7, 7), (2, 5, 6, 9)])
def test_layout_that_cannot_be_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(DissectError, match="set the layout"):
        of_shape(*shape)
    assert of_shape(*shape, layout="channels_first").units == 1
    assert of_shape(*shape, layout="channels_last").units == 3
    assert of_shape(*shape, own="first").units == 1


def test_five_dimensions_are_refused() -> None:
    with pytest.raises(DissectError, match=r"\(1, 1, 1, 1, 1\)"):
        of_shape(1, 1, 1, 1, 1)


def test_unknown_summary_lists_the_valid() -> None:
    with pytest.raises(DissectError, match="auto or mean or max or cls"):
        Summary("median")
    with pytest.raises(DissectError, match="channels_last"):
        Summary("mean", "nhwc")


class Tokens(nn.Module):
    """16 patches from 4 x 4 convolutions; images may be on the second axis."""

    def __init__(self, second: bool = False) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 5, 2, stride=2)
        self.block, self.second = nn.Sequential(nn.Linear(5, 5)), second

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.proj(images).flatten(2).transpose(1, 2)
        return self.block(tokens.transpose(0, 1) if self.second else tokens)


def flat(image: Image.Image) -> Tensor:
    """The first pixel's colour everywhere."""
    colour = torch.tensor(image.getpixel((0, 0))) / 255
    return colour[:, None, None].expand(3, 8, 8)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("batch", [1, 5, 16, 24])
def test_as_many_tokens_as_images(tmp_path: Path, batch: int, second: bool) -> None:
    torch.manual_seed(0)
    model = Tokens(second).requires_grad_(False)
    write_colours(tmp_path)
    found = clipdissect.dissect(
        model,
        layers=["block"],
        probe=str(tmp_path),
        concepts=list(COLOURS),
        store=None,
        preprocess=flat,
        encoder=ColourEncoder(),
        similarity=clipdissect.similarity.build("soft_wpmi", top_k=4),
        settings=Settings(device="cpu", workers=0, batch_size=batch),
    )
    best = found.top_images.query("unit == 0 and rank == 1")["activation"].item()
    images = [flat(Image.open(path)) for path in sorted(tmp_path.iterdir())]
    outputs = [model(image[None]).reshape(16, 5)[:, 0].mean().item() for image in images]
    assert best == pytest.approx(max(outputs), abs=1e-6)
    assert found.run["readings"]["block"]["rule"] == "mean over 4 x 4 patches"
    assert found.run["readings"]["block"]["images"] == int(second)


class Heads(nn.Module):
    """Attention between 16 tokens of 4 x 4 patches, and a bias that knows no images."""

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.softmax = nn.Conv2d(3, 4, 2, stride=2), nn.Softmax(dim=-1)
        self.bias = nn.Embedding(16, 16)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.proj(images).flatten(2)
        scores = tokens[..., None] * tokens[..., None, :] + self.bias(torch.arange(16))
        return self.softmax(scores)


def test_attention_and_what_has_no_images_are_refused() -> None:
    with pytest.raises(DissectError, match="attention weights"):
        reading(Heads(), "softmax")
    with pytest.raises(DissectError, match="no axis holds the images"):
        reading(Heads(), "bias")


def test_types_that_say_where_units_are() -> None:
    from timm.layers import LayerNorm2d, StdConv2d

    firsts = [
        nn.Conv2d(1, 1, 1),
        nn.Conv1d(1, 1, 1),
        nn.BatchNorm2d(1),
        nn.GroupNorm(1, 1),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        StdConv2d(1, 1, 1),
    ]
    assert [units_axis(module) for module in firsts] == ["first"] * len(firsts)
    lasts = [nn.Linear(1, 1), nn.LayerNorm(1), nn.RMSNorm(1)]
    assert [units_axis(module) for module in lasts] == ["last"] * len(lasts)
    maps = [nn.LayerNorm((2, 3, 3), elementwise_affine=affine) for affine in (True, False)]
    others = [*maps, LayerNorm2d(1), nn.ReLU(), nn.Sequential(nn.Conv2d(1, 1, 1)), nn.Flatten()]
    assert [units_axis(module) for module in others] == [None] * len(others)


def test_evaluation_mode_is_for_the_trial_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)).train()
    before = model[1].running_mean.clone()
    try_out(Target("net", model, lambda _: torch.ones(3, 8, 8)), ["1"])
    assert model.training and model[1].training and model[1].running_mean.equal(before)
    assert not any(m._forward_hooks for m in model.modules())
