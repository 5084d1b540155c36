"""Nothing waits for a GPU between batches, seen on tensors of a GPU that isn't there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ColourEncoder, LiveNet, preprocess, write_colours
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision import models

from clipdissect import probe
from clipdissect.capture import shard_runner
from clipdissect.capture.capture import capture
from clipdissect.capture.hooks import recording
from clipdissect.capture.infer_layout import read_layers
from clipdissect.capture.networks import EMBEDS, ModelRunner
from clipdissect.capture.pooling import Summary
from clipdissect.capture.settings import CUDA_SHARD, SHARD, Settings
from clipdissect.errors import DissectError
from clipdissect.images import transforms
from clipdissect.store import Store
from clipdissect.targets import Target

WAIT = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique")


class Watch(TorchDispatchMode):
    """Records what needs the host: values that decide something, and copies from or to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = str(function)
        tensors = [argument for argument in args if isinstance(argument, Tensor)]
        to_cpu = torch.device(kwargs.get("device") or "meta").type == "cpu"
        if name.split(".")[1] in WAIT or to_cpu or any(t.device.type == "cpu" for t in tensors):
            self.waits.append(name)
        return function(*args, **kwargs)


class Normalised(ColourEncoder):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def preprocess(self) -> Any:
        return models.ViT_B_16_Weights.IMAGENET1K_V1.transforms()

    def embed_images(self, images: Tensor) -> Tensor:
        return F.normalize(self.network(images), dim=-1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "resnet": (models.resnet18, ("conv1", "layer1", "layer4", "fc")),
    "transformer": (models.vit_b_32, ("encoder.layers.encoder_layer_3", "heads.head")),
    "mobile": (models.mobilenet_v3_small, ("features.2", "classifier.3")),
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    # Draws until no value is too large, which a tensor without values doesn't know.
    monkeypatch.setattr(nn.init, "trunc_normal_", lambda tensor, *_, **__: tensor)
    yield FakeTensorMode()
    transforms._constant.cache_clear()  # has tensors of the mode


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_is_queued_without_a_wait(name: str, fake: FakeTensorMode) -> None:
    build, layers = NETWORKS[name]
    preprocess = models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    readings = read_layers(
        Target(name, build().eval(), preprocess, layers), layers, Summary(), "cpu"
    )
    with fake, torch.device("cuda"):
        model, encoder = build().eval(), Normalised(build().eval())
        settings = Settings(device="cuda", precision="fp32")
        pixels = torch.empty(4, 3, 224, 224, dtype=torch.uint8)
    with recording(model, readings) as recorder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pointers that a fake tensor doesn't have
        target = Target(name, model, preprocess, layers)
        run = ModelRunner(target, encoder, recorder, settings)
        with torch.no_grad(), fake:
            run((*layers, EMBEDS), pixels, pixels)  # copies the mean and the deviation once
            with Watch() as watch:
                outputs = run((*layers, EMBEDS), pixels, pixels)
            assert watch.waits == []
            assert {values.device.type for values in outputs.values()} == {"cuda"}
            with Watch() as watch:
                outputs[EMBEDS].cpu()
            assert watch.waits  # the test can fail


def test_only_the_writer_thread_looks_at_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_colours(tmp_path / "images")
    watches = []

    def watched(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with Watch() as watch:
                result = method(*arguments)
            watches.append([name for name in watch.waits if name.split(".")[1] in WAIT])
            return result

        return call

    monkeypatch.setattr(ModelRunner, "__call__", watched(ModelRunner.__call__))
    writer = shard_runner._WriterThread
    monkeypatch.setattr(writer, "write", watched(writer.write))
    target = Target("net", LiveNet(), preprocess(), ("relu", "head"))
    images = probe.build("folder", root=str(tmp_path / "images"))
    settings = Settings(device="cpu", shard=5, batch_size=2, workers=0)
    capture(target, target.layers, ColourEncoder(), images, Store(tmp_path / "store"), settings)
    assert len(watches) > 12
    assert not any(watches)


class LateNaN(LiveNet):
    """Its unit 1 is NaN on the last images alone."""

    def forward(self, images: Tensor) -> Tensor:
        out = super().forward(images)
        bad = torch.where(images.mean((1, 2, 3)) > 0.66, torch.nan, 0.0)
        return self.last(torch.cat([out[:, :1], out[:, 1:2] + bad[:, None], out[:, 2:]], 1))

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Identity()


def test_a_value_that_is_not_finite_leaves_its_entry_incomplete(tmp_path: Path) -> None:
    write_colours(tmp_path / "images")
    images = probe.build("folder", root=str(tmp_path / "images"))
    target = Target("net", LateNaN(), preprocess(), ("relu", "last"))
    settings = Settings(device="cpu", shard=4, batch_size=2, workers=0)
    for _ in range(2):  # also where earlier shards are read from the store
        with pytest.raises(DissectError, match=r"layer last, unit 1: .* image .* is nan"):
            capture(
                target, target.layers, ColourEncoder(), images, Store(tmp_path / "store"), settings
            )


def test_shards_are_larger_on_a_gpu(fake: FakeTensorMode) -> None:
    assert Settings(device="cpu").images_a_shard == SHARD
    assert Settings(device="cpu", shard=7).images_a_shard == 7
    with fake:
        on_gpu = Settings(device="cuda")
    assert on_gpu.images_a_shard == CUDA_SHARD
    assert CUDA_SHARD % on_gpu.images_a_batch == SHARD % on_gpu.images_a_batch == 0
