"""Summaries of layer outputs, and hooks that always go."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from tiny import ColourNet
from torch import Tensor, nn

from clipdissect.errors import DissectError
from clipdissect.hooks import find_layers, recording
from clipdissect.summary import Summary, split_layer, summarise


def summed(output: Tensor, kind: str = "auto", token: bool = False, layout: str = "auto",
           square: bool = True) -> Tensor:  # fmt: skip
    return summarise(output, Summary(kind, layout), token, square, "layer")


def test_vectors_are_taken_as_they_are() -> None:
    values = torch.tensor([[1.0, 2.0]])
    assert summed(values, "max").equal(values)


def test_maps_by_mean_and_max() -> None:
    maps = torch.arange(8.0).reshape(1, 2, 2, 2)
    assert summed(maps).tolist() == [[1.5, 5.5]]
    assert summed(maps, "max").tolist() == [[3.0, 7.0]]
    with pytest.raises(DissectError, match="no class token"):
        summed(maps, "cls")


def test_tokens_by_class_token_mean_and_max() -> None:
    tokens = torch.tensor([[[1.0, 8.0], [3.0, 2.0]]])
    assert summed(tokens, "cls").tolist() == [[1.0, 8.0]]
    assert summed(tokens, "auto", token=True).tolist() == [[1.0, 8.0]]
    assert summed(tokens, "auto", token=False).tolist() == [[2.0, 5.0]]
    assert summed(tokens, "max").tolist() == [[3.0, 8.0]]


def test_swin_layout_is_told_by_the_equal_sides() -> None:
    first = torch.rand(2, 5, 3, 3)
    last = first.permute(0, 2, 3, 1)
    assert torch.allclose(summed(first), summed(last))
    assert summed(last, layout="channels_first").shape == (2, 3)
    assert summed(last, square=False).shape == (2, 3)


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
    x = torch.zeros(1, 3, 2, 2)
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
        record(model, ["spare"], torch.zeros(1, 3, 2, 2))
