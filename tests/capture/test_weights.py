"""Weights in bfloat16 or channels-last for a pass, and the very tensors back afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ColourEncoder, LiveNet, preprocess, write_colours
from torch import Tensor, nn
from torch.nn import functional as F

from clipdissect import probe
from clipdissect.capture.capture import capture
from clipdissect.capture.networks import on_device
from clipdissect.capture.settings import BF16_WEIGHTS, Settings
from clipdissect.capture.weights import converted
from clipdissect.errors import DissectError
from clipdissect.store import Store
from clipdissect.targets import Target

HALF = Settings(device="cpu", precision=BF16_WEIGHTS)


class NetworkEncoder(ColourEncoder):
    """Colours through a network, in its type."""

    def __init__(self) -> None:
        super().__init__()
        self.image_network = nn.Conv2d(3, 3, 1)
        self.types: set[torch.dtype] = set()

    def embed_images(self, images: Tensor) -> Tensor:
        weight = self.image_network.weight
        self.types.add(weight.dtype)
        return F.normalize(self.image_network(images.to(weight.dtype)).mean((2, 3)), dim=-1)


def network() -> nn.Sequential:
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Linear(8, 8))
    made[3].weight = nn.Parameter(torch.rand(8, 8))
    made.register_module("tied", nn.Linear(8, 8, bias=False))
    made.tied.weight = made[3].weight
    return made.eval()


def test_the_very_tensors_come_back_also_after_an_error() -> None:
    model = network()
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in state.items()}
    with pytest.raises(ValueError, match="inside"), converted(model, HALF):
        assert {p.dtype for p in model[0].parameters()} == {torch.bfloat16}
        assert {p.dtype for p in model[1].parameters()} == {torch.float32}
        assert model[1].running_var.dtype == torch.float32
        assert model[3].weight is model.tied.weight
        assert model(torch.rand(2, 3, 12, 12).bfloat16()).dtype == torch.bfloat16
        raise ValueError("inside")
    for name, (place, values) in before.items():
        assert state[name].data_ptr() == place, name
        assert state[name].equal(values), name


def test_other_types_stay() -> None:
    model = nn.Sequential(nn.Linear(2, 2).half(), nn.Embedding(3, 2).double())
    model.register_buffer("index", torch.arange(3))
    with converted(model, HALF):
        types = {p.dtype for p in model.parameters()}
        assert types == {torch.float16, torch.float64}
        assert model.index.dtype == torch.int64


def test_convolutions_are_channels_last_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    strides = model[0].weight.stride()
    with converted(model, Settings(device="cpu")):
        assert model[0].weight.stride() == strides
    monkeypatch.setattr(Settings, "is_cuda", True)
    with converted(model, Settings(device="cpu")):
        assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model[0].weight.stride() == strides


def run(
    images: Path,
    store: Store,
    encoder: Any,
    model: nn.Module | None = None,
    layers: tuple[str, ...] = ("conv", "head"),
    **settings: Any,
) -> Any:
    model = model or LiveNet()
    target = Target("tiny", model, preprocess(), layers)
    options = Settings(device="cpu", **settings)
    found = capture(
        target, target.layers, encoder, probe.build("folder", root=str(images)), store, options
    )
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    return found


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_colours(tmp_path / "images")
    return tmp_path / "images"


def test_bf16_weights_are_close_and_kept_apart(images: Path, tmp_path: Path) -> None:
    encoder, store = NetworkEncoder(), Store(tmp_path / "store")
    exact = run(images, store, encoder)
    encoder.types.clear()
    rough = run(images, store, encoder, precision=BF16_WEIGHTS)
    assert len(rough.computed) == 3
    assert encoder.types == {torch.bfloat16}
    assert encoder.image_network.weight.dtype == torch.float32
    assert rough.image_embeds.dtype == torch.float32
    for layer in ("conv", "head"):
        assert torch.allclose(exact.activations[layer], rough.activations[layer], atol=0.03)
        assert not exact.activations[layer].equal(rough.activations[layer])


def test_bf16_weights_need_the_encoders_network(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DissectError, match="image_network"):
        run(images, Store(tmp_path / "store"), ColourEncoder(), precision=BF16_WEIGHTS)


@pytest.mark.parametrize("precision", ["fp32", BF16_WEIGHTS])
def test_both_networks_are_compiled_with_their_hooks(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    compiled = []

    def record(what: Any) -> Any:
        compiled.append(what)
        return torch._dynamo.optimize("eager")(what)

    encoder, store = NetworkEncoder(), Store(tmp_path / "store")
    exact = run(images, store, encoder, precision=precision)
    monkeypatch.setattr(torch, "compile", record)
    found = run(images, store, encoder, precision=precision, compile=True)
    assert len(found.computed) == 3
    assert [getattr(what, "__name__", type(what).__name__) for what in compiled] == [
        "LiveNet",
        "embed_images",
    ]
    for layer in ("conv", "head"):
        assert torch.allclose(exact.activations[layer], found.activations[layer], atol=0.02)
    assert torch.allclose(exact.image_embeds, found.image_embeds, atol=0.02)


def test_compiled_code_of_other_hooks_is_not_used(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch, "compile", lambda network: torch._dynamo.optimize("eager")(network)
    )
    broken = LiveNet()  # what follows its hook is compiled apart, without a hook
    broken.conv.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    encoder, store = NetworkEncoder(), Store(tmp_path / "store")
    exact = run(images, store, encoder)
    run(images, store, encoder, broken, ("conv",), compile=True)
    found = run(images, store, encoder, compile=True)
    assert exact.activations["head"].equal(found.activations["head"])


def test_devices_are_left_as_they_were() -> None:
    model = network()
    places = [p.data_ptr() for p in model.parameters()]
    with on_device(model, "cpu"), converted(model, HALF):
        pass
    assert [p.data_ptr() for p in model.parameters()] == places
