"""Summaries of layer outputs, and hooks that always go."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from tiny import ColourNet
from torch import Tensor, nn
from torchvision.models import alexnet

from clipdissect.capture.hooks import find_layers, recording
from clipdissect.capture.output_layout import (
    Declared,
    Evidence,
    Output,
    Reading,
    as_maps,
    read,
    summarise,
)
from clipdissect.capture.pooling import Summary
from clipdissect.errors import DissectError
from clipdissect.models.layer_patterns import split_layer


def test_value_is_taken_before_an_inplace_operation() -> None:
    x = torch.zeros(1, 3, 5, 5)
    x[:, 1] = 1.0
    # conv gives -1 for units 0 and 2; the in-place ReLU after it would make them 0.
    assert record(ColourNet(), ["conv"], x)["conv"].tolist() == [[-1.0, 1.0, -1.0, 0.5]]


class Overwriter(nn.Module):
    """Every output is overwritten after its module has returned it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.layer(x).mul_(0)
        return x


@pytest.mark.parametrize("shape", [(2, 3), (2, 5, 3), (2, 1, 3), (2, 3, 4, 4), (2, 3, 1, 1)])
@pytest.mark.parametrize("reduce", [summarise, as_maps])
@pytest.mark.parametrize("kind", ["auto", "max", "cls"])
def test_what_is_recorded_is_a_copy(
    shape: tuple[int, ...], reduce: Callable[..., Tensor], kind: str
) -> None:
    evidence = Evidence((8, 8), frozenset({(4, 4), (2, 2)}), {}, {})
    if kind == "cls" and len(shape) == 4:
        kind = "mean"
    reading = read(Output("layer", shape), Summary(kind), evidence, Declared())
    x = torch.rand(shape) + 1
    expected, model = reduce(x.clone(), reading), Overwriter()
    with torch.no_grad(), recording(model, {"layer": reading}, reduce) as recorder:
        model(x)
        found = recorder.take(["layer"])["layer"]
    assert x.eq(0).all() and found.equal(expected) and found.all()


def test_alexnets_hidden_layer_keeps_its_negative_activations() -> None:
    torch.manual_seed(0)
    model = alexnet(weights=None).eval()
    x = torch.rand(2, 3, 64, 64)
    found = record(model, ["classifier.1", "features.0"], x)
    with torch.no_grad():
        expected = model.classifier[1](model.avgpool(model.features(x)).flatten(1))
    assert found["classifier.1"].equal(expected)
    assert 0.2 < (found["classifier.1"] < 0).float().mean() < 0.8


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
    """The layers' summaries, read as vectors or as maps of convolutions."""
    vector = Reading(kind="none", ndim=2)

    def reduce(output: Tensor, reading: Reading) -> Tensor:
        maps = Reading(reading.layer, "mean", 4, 0, 1)
        return summarise(output, maps if output.ndim == 4 else vector)

    readings = {layer: Reading(layer) for layer in layers}
    with torch.no_grad(), recording(model, readings, reduce) as recorder:
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


def test_hooks_are_removed_after_an_exception() -> None:
    model = ColourNet()
    with pytest.raises(RuntimeError), recording(model, {"conv": Reading(), "head": Reading()}):
        model(torch.zeros(1, 5, 2, 2))
    assert not any(module._forward_hooks for module in model.modules())


def test_shared_module_is_ambiguous() -> None:
    relu = nn.ReLU()
    with pytest.raises(DissectError, match="more than once"):
        record(nn.Sequential(relu, nn.Identity(), relu), ["0"], torch.ones(1, 2))


def test_layer_out_of_the_pass() -> None:
    model = ColourNet()
    model.spare = nn.Linear(2, 2)
    with pytest.raises(DissectError, match="spare exists but does not run"):
        record(model, ["spare"], torch.zeros(1, 3, 5, 5))
