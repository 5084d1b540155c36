"""Summaries of layer outputs, and hooks that always go."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from tiny import ColourNet
from torch import Tensor, nn

from clipdissect.errors import DissectError
from clipdissect.hooks import find_layers, recording
from clipdissect.summary import Context, Summary, split_layer, summarise


def summed(output: Tensor, kind: str = "auto", layout: str = "auto", **known: Any) -> Tensor:
    return summarise(output, Summary(kind, layout), Context(**{"input_size": (8, 8), **known}))


def test_vectors_are_taken_as_they_are() -> None:
    values = torch.tensor([[1.0, 2.0]])
    assert summed(values, "max").equal(values)


def test_maps_by_mean_and_max() -> None:
    maps = torch.arange(8.0).reshape(1, 2, 2, 2)
    assert summed(maps, layout="channels_first").tolist() == [[1.5, 5.5]]
    assert summed(maps, "max", "channels_first").tolist() == [[3.0, 7.0]]
    with pytest.raises(DissectError, match="no class token"):
        summed(maps, "cls")


def test_tokens_by_class_token_mean_and_max() -> None:
    tokens = torch.tensor([[[1.0, 8.0], [3.0, 2.0]]])
    assert summed(tokens, "cls").tolist() == [[1.0, 8.0]]
    assert summed(tokens, has_class_token=True).tolist() == [[1.0, 8.0]]
    assert summed(tokens).tolist() == [[2.0, 5.0]]
    assert summed(tokens, "max").tolist() == [[3.0, 8.0]]


@pytest.mark.parametrize("size", [(8, 8), (8, 16), (64, 43)])
def test_layout_by_proportions(size: tuple[int, int]) -> None:
    first = torch.rand(2, 50, -(-size[0] // 4), -(-size[1] // 4))
    expected = first.mean((2, 3))
    assert torch.allclose(summed(first, input_size=size), expected)
    assert torch.allclose(summed(first.permute(0, 2, 3, 1), input_size=size), expected)


def test_layout_by_the_width_of_the_layer() -> None:
    # Sixteen channels, 16 x 8 positions, from a square input: the proportions would mislead.
    maps = torch.rand(2, 16, 16, 8)
    assert summed(maps, features=16).shape == (2, 16)
    assert summed(maps, features=8).shape == (2, 8)
    cube = torch.rand(2, 7, 7, 7)
    assert torch.allclose(summed(cube, features=7, from_convolution=True), cube.mean((2, 3)))


@pytest.mark.parametrize("shape", [(2, 7, 7, 7), (2, 5, 6, 9)])
def test_layout_that_cannot_be_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(DissectError, match="set the layout"):
        summed(torch.rand(shape))
    assert summed(torch.rand(shape), layout="channels_first").shape == shape[:2]
    assert summed(torch.rand(shape), layout="channels_last").shape == (shape[0], shape[3])


def test_width_of_real_layers() -> None:
    from torchvision.models import convnext_tiny, swin_t

    x = torch.rand(2, 3, 64, 128)
    for model, layers, widths in (
        (swin_t().eval(), ["features.1", "features.5"], [96, 384]),
        (convnext_tiny().eval(), ["features.1", "features.5"], [96, 384]),
    ):
        with torch.no_grad(), recording(model, layers, Summary()) as recorder:
            recorder.input_size = (64, 128)
            model(x)
            assert [v.shape[1] for v in recorder.take(layers).values()] == widths


def test_as_many_tokens_as_images() -> None:
    model = nn.Sequential(nn.Identity())
    with pytest.raises(DissectError, match="batch_size"):
        record(model, ["0"], torch.ones(4, 4, 2))


def test_five_dimensions_are_refused() -> None:
    with pytest.raises(DissectError, match=r"\(1, 1, 1, 1, 1\)"):
        summed(torch.zeros(1, 1, 1, 1, 1))


def test_unknown_summary_lists_the_valid() -> None:
    with pytest.raises(DissectError, match="auto, mean, max, cls"):
        Summary("median")
    with pytest.raises(DissectError, match="channels_last"):
        Summary("mean", "nhwc")


def test_split_layer() -> None:
    assert split_layer("blocks.0.attn") == ("blocks.0.attn", ())
    assert split_layer("blocks.0.attn[0]") == ("blocks.0.attn", ("0",))
    assert split_layer("backbone[out][1]") == ("backbone", ("out", "1"))


class Tuples(nn.Module):
    """A layer that returns a dict, and one that returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.dicts, self.pairs = _Dict(), _Pair()

    def forward(self, x: Tensor) -> Tensor:
        return self.pairs(self.dicts(x)["out"])[0]


class _Dict(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return OrderedDict(out=x, aux=x + 1)


class _Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, x * 3


def record(model: nn.Module, layers: list[str], x: Tensor) -> dict[str, Tensor]:
    with recording(model, layers, Summary()) as recorder:
        model(x)
        return recorder.take(layers)


def test_parts_of_outputs_can_be_selected() -> None:
    x = torch.ones(1, 2)
    found = record(Tuples(), ["dicts[aux]", "pairs[1]"], x)
    assert found["dicts[aux]"].tolist() == [[2.0, 2.0]]
    assert found["pairs[1]"].tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("pairs", r"a tuple of \(a tensor \(1, 2\), a tensor \(1, 2\)\).*'pairs\[0\]'"),
        ("dicts", r"OrderedDict of \(out.*'dicts\[out\]'"),
        ("pairs[2]", r"no part \[2\]"),
        ("dicts[logits]", r"no part \[logits\]"),
    ],
)
def test_output_that_is_no_tensor_says_how_to_select(layer: str, says: str) -> None:
    with pytest.raises(DissectError, match=says):
        record(Tuples(), [layer], torch.ones(1, 2))


def test_unknown_layer_lists_the_closest() -> None:
    with pytest.raises(DissectError, match=r"unknown layer 'haed'. Did you mean head\?"):
        find_layers(ColourNet(), ["conv", "haed"])


def test_value_is_taken_before_an_inplace_operation() -> None:
    x = torch.zeros(1, 3, 5, 5)
    x[:, 1] = 1.0
    # conv gives -1 for units 0 and 2; the in-place ReLU after it would make them 0.
    assert record(ColourNet(), ["conv"], x)["conv"].tolist() == [[-1.0, 1.0, -1.0, 0.5]]


def test_hooks_are_removed_after_an_exception() -> None:
    model = ColourNet()
    with pytest.raises(RuntimeError), recording(model, ["conv", "head"], Summary()):
        model(torch.zeros(1, 5, 2, 2))
    assert not any(module._forward_hooks for module in model.modules())


def test_shared_module_is_ambiguous() -> None:
    relu = nn.ReLU()
    with pytest.raises(DissectError, match="more than once"):
        record(nn.Sequential(relu, nn.Identity(), relu), ["0"], torch.ones(1, 2))


def test_layer_out_of_the_pass() -> None:
    model = ColourNet()
    model.spare = nn.Linear(2, 2)
    with pytest.raises(DissectError, match="spare exists but took no part"):
        record(model, ["spare"], torch.zeros(1, 3, 5, 5))
