"""Networks as users bring them: wrapped, lazy, quantised, with odd `train()`s and outputs."""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from tiny import ColourEncoder, ColourNet, preprocess, write_colours
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from clipdissect import probe
from clipdissect import targets as target
from clipdissect.api import dissect
from clipdissect.capture.capture import capture
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError, MissingResource
from clipdissect.models import checkpoints
from clipdissect.similarity import build as similarity
from clipdissect.store import Store
from clipdissect.targets import Target


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_colours(tmp_path / "images", 1)
    return tmp_path / "images"


def run(
    images: Path, model: nn.Module, *layers: str, store: Store | None = None, **more: Any
) -> Any:
    found = probe.build("folder", root=str(images))
    own = Target("net", model, preprocess(more.pop("size", 8)), layers)
    settings = Settings(**{"device": "cpu", "workers": 0, **more})
    place = store or Store(images.parent / uuid4().hex)
    return capture(own, own.layers, None, found, place, settings)


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=5)


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "compiled": torch.compile,
    "AveragedModel": AveragedModel,
    "both": lambda model: torch.compile(nn.DataParallel(model)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_are_taken_off(images: Path, tmp_path: Path, name: str) -> None:
    model, store = resnet(), Store(tmp_path / "store")
    wrapped = WRAPPERS[name](copy.deepcopy(model))
    plain = run(images, model, "layer4", "fc", store=store, size=32)
    for layers in (("layer4", "fc"), ("module.layer4", "_orig_mod.module.fc"), ("layer[4]", "fc")):
        if layers[0] == "layer[4]":
            layers = ("*4", "module.f*")
        again = run(images, wrapped, *layers, store=store, size=32)
        assert again.computed == ()  # the same key, so the same network
        assert tuple(again.activations) == ("layer4", "fc")
        assert again.activations["fc"].equal(plain.activations["fc"])


@pytest.mark.parametrize("how", ["part", "in place"])
def test_compiled_parts_run_with_hooks(images: Path, how: str) -> None:
    plain = run(images, resnet(), "layer2.0", "fc", size=32)
    model = resnet()
    if how == "part":
        model.layer2 = torch.compile(model.layer2, backend="eager")
    else:
        model.compile(backend="eager")
    model(torch.zeros(6, 3, 32, 32))  # compiled now, without hooks
    model.load_state_dict(
        dict(zip(model.state_dict(), resnet().state_dict().values(), strict=True))
    )
    found = run(images, model, "layer2.0", "fc", size=32)
    for one, other in zip(plain.activations.values(), found.activations.values(), strict=True):
        assert one.equal(other)


def test_distributed_wrapper(images: Path, tmp_path: Path) -> None:
    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    try:
        own = Target("net", DistributedDataParallel(resnet()), preprocess(), ("module.fc",))
        assert own.layers == ("fc",)
        assert isinstance(own.model, torchvision.models.ResNet)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("name", [*WRAPPERS, "part"])
def test_checkpoints_of_wrappers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    wrapped = resnet()
    if name == "part":
        wrapped.layer1 = torch.compile(wrapped.layer1)
    else:
        wrapped = WRAPPERS[name](wrapped)
    torch.save({"state_dict": wrapped.state_dict()}, tmp_path / "net.pt")
    (tmp_path / "wrapping.py").write_text(
        "import torch, torchvision\n"
        "def plain():\n    return torchvision.models.resnet18(num_classes=5)\n"
        "def wrapped():\n    return torch.nn.DataParallel(plain())\n"
        "def part():\n    net = plain()\n    net.layer1 = torch.compile(net.layer1)\n"
        "    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for factory in ("plain", "wrapped", "part"):
        found = target.build(
            "checkpoint",
            factory=f"wrapping:{factory}",
            checkpoint="net.pt",
            layers=["module.fc"],
            class_layer="fc",
        )
        assert (found.layers, found.class_layer) == (("fc",), "fc")
        for tensor, own in zip(
            found.model.state_dict().values(), resnet().state_dict().values(), strict=True
        ):
            assert tensor.equal(own)


class Silent(ColourNet):
    """`train` returns nothing, as in many networks that freeze their norms."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)


def test_train_that_returns_nothing(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Silent()
    found = dissect(
        model,
        ["head"],
        probe=str(images),
        concepts=["red", "green"],
        preprocess=preprocess(),
        encoder=ColourEncoder(),
        similarity=similarity("soft_wpmi", top_k=2),
        store=None,
        settings=Settings("cpu", workers=0),
    )
    assert len(found.descriptions) == 4
    assert model.training
    monkeypatch.setattr("clipdissect.utils.import_path.call", lambda *_: Silent())
    assert not target.build("module", factory="any:thing", layers=["head"]).model.training


def test_modes_gradients_and_hooks_are_as_before(images: Path) -> None:
    model = resnet().train()
    model.layer1.eval()
    model.bn1.requires_grad_(False)
    modes = {name: module.training for name, module in model.named_modules()}
    grads = {name: p.requires_grad for name, p in model.named_parameters()}
    run(images, model, "layer2", size=32)
    with pytest.raises(DissectError, match="failed on a batch"):
        run(images, nn.Sequential(model, nn.Linear(3, 3)), "1")
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: p.requires_grad for name, p in model.named_parameters()} == grads
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_numbers(images: Path, dtype: torch.dtype) -> None:
    q = run(images, ColourNet().to(dtype), "head").activations["head"]
    assert q.dtype == torch.float32
    assert torch.allclose(q, run(images, ColourNet(), "head").activations["head"], atol=2e-2)


@pytest.fixture
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_double_by_default(images: Path, doubles: None) -> None:
    q = run(images, ColourNet(), "head").activations["head"]
    assert q.dtype == torch.float32
    torch.set_default_dtype(torch.float32)
    assert torch.allclose(q, run(images, ColourNet(), "head").activations["head"], atol=1e-6)


def test_encoders_take_images_in_their_own_numbers() -> None:
    from clipdissect.encoder.batches import placed

    assert placed(nn.Linear(2, 2), torch.zeros(1, 2, dtype=torch.float64)).dtype == torch.float32
    assert placed(nn.ReLU(), torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


def test_lazy_modules(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2))

    with pytest.raises(
        DissectError, match=r"4 tensors of the network have no shape yet, such as 0"
    ):
        Target("lazy", build(), preprocess())
    trained = build()
    trained(torch.zeros(1, 3, 8, 8))
    torch.save(trained.state_dict(), tmp_path / "lazy.pt")
    monkeypatch.setattr("clipdissect.utils.import_path.call", lambda *_: build())
    found = target.build(
        "checkpoint", factory="any:thing", checkpoint=str(tmp_path / "lazy.pt"), layers=["2"]
    )
    q = run(images, found.model, "2").activations["2"]
    assert q.equal(run(images, trained, "2").activations["2"])
    torch.save({"2.weight": torch.zeros(2, 2)}, tmp_path / "lazy.pt")
    with pytest.raises(DissectError, match="3 missing"):
        target.build("checkpoint", factory="any:thing", checkpoint=str(tmp_path / "lazy.pt"))


@dataclass
class Features:
    maps: Tensor
    pooled: Tensor
    nothing: None = None


Pair = namedtuple("Pair", ["maps", "pooled"])


class Plain:
    def __init__(self, maps: Tensor, pooled: Tensor) -> None:
        self.maps, self.pooled, self._hidden = maps, pooled, 0


class Backbone(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.conv, self.kind = nn.Conv2d(3, 4, 3), kind

    def forward(self, x: Tensor) -> Any:
        maps = self.conv(x)
        return self.kind(maps=maps, pooled=maps.mean((2, 3)))


class Outer(nn.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = Backbone(kind)

    def forward(self, x: Tensor) -> Any:
        self.backbone(x)


def model_output(**parts: Tensor) -> Any:
    from transformers.modeling_outputs import ModelOutput

    return ModelOutput(parts)


@pytest.mark.parametrize("kind", [Features, Pair, Plain, dict, model_output])
def test_parts_of_outputs(images: Path, kind: Any) -> None:
    model = Outer(kind)
    q = run(images, model, "backbone[pooled]").activations["backbone[pooled]"]
    conv = run(images, model, "backbone.conv").activations["backbone.conv"]
    assert torch.allclose(q, conv, atol=1e-6)
    if kind is not Features and kind is not Plain:
        assert run(images, model, "backbone[1]").activations["backbone[1]"].equal(q)
    with pytest.raises(DissectError, match=r"Select one part, such as 'backbone\[maps\]'"):
        run(images, model, "backbone")
    with pytest.raises(DissectError, match=r"no part \[mapz\].*maps: a tensor"):
        run(images, model, "backbone[mapz]")


@pytest.mark.parametrize("kind", ["more", "dict", "dict wrapped"])
def test_forward_that_takes_something_else(images: Path, kind: str) -> None:
    class Odd(ColourNet):
        def forward(self, batch: Any, mask: Any = None) -> Tensor:  # type: ignore[override]
            if kind == "more" and mask is None:
                raise TypeError("forward() missing 1 required positional argument: 'mask'")
            return super().forward(batch["image"])

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Odd()

        def forward(self, x: Tensor) -> Tensor:
            return self.net({"image": x})

    if kind == "dict wrapped":
        assert run(images, Wrapper(), "net.head").activations["net.head"].shape == (6, 4)
        return
    with pytest.raises(DissectError, match="forward take only a batch of images"):
        run(images, Odd(), "head")


def test_wrapped_program_is_refused_as_a_plain_one() -> None:
    program = torch.jit.trace(ColourNet(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(DissectError, match="TorchScript programs are not supported"):
        Target("net", nn.DataParallel(program), preprocess())


def test_quantised_networks(images: Path) -> None:
    from torch.ao import quantization

    torch.manual_seed(0)
    model = nn.Sequential(
        quantization.QuantStub(), nn.Conv2d(3, 4, 3), nn.ReLU(), quantization.DeQuantStub()
    )
    model.eval()
    model.qconfig = quantization.get_default_qconfig("fbgemm")
    ready = quantization.prepare(model)
    for _ in range(4):
        ready(torch.rand(4, 3, 8, 8))
    quantised = quantization.convert(ready)
    found = run(images, quantised, "1", "3")
    expected = run(images, model, "1").activations["1"]
    assert torch.allclose(found.activations["1"], expected, atol=0.2)
    dynamic = torch.ao.quantization.quantize_dynamic(ColourNet(), {nn.Linear})
    heads = run(images, dynamic, "head").activations["head"]
    assert torch.allclose(heads, run(images, ColourNet(), "head").activations["head"], atol=0.05)


def test_complex_numbers_are_refused(images: Path) -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft2(x)

    with pytest.raises(DissectError, match="layer 0 returned complex numbers"):
        run(images, nn.Sequential(Spectrum()), "0")


def broken_files(folder: Path) -> dict[str, tuple[str, bytes]]:
    state = {"weight": torch.randn(300, 30)}
    torch.save(state, folder / "good.pt")
    torch.save(state, folder / "old.pt", _use_new_zipfile_serialization=False)
    save_file(state, folder / "good.safetensors")
    whole = {
        name: (folder / name).read_bytes() for name in ("good.pt", "old.pt", "good.safetensors")
    }
    return {
        "empty.pt": ("is empty", b""),
        "lfs.bin": (
            "is a pointer of Git LFS.*git lfs pull",
            b"version https://git-lfs.github.com/spec/v1\n",
        ),
        "page.pt": ("is a web page, not weights", b"\n<!DOCTYPE html><html>Sign in</html>"),
        "denied.pth": ("is a web page", b'<?xml version="1.0"?><Error>AccessDenied</Error>'),
        "cut.pt": ("is truncated after 5000 bytes", whole["good.pt"][:5000]),
        "cut_old.pt": ("is truncated after 5000 bytes", whole["old.pt"][:5000]),
        "cut.safetensors": ("is truncated after 5000 bytes", whole["good.safetensors"][:5000]),
        "head.safetensors": ("is truncated after 40 bytes", whole["good.safetensors"][:40]),
        "text.pt": ("is not a checkpoint that can be read safely", b"hello there"),
    }


def test_files_that_are_no_weights_say_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, (says, content) in broken_files(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DissectError, match=f"{name} {says}"):
            checkpoints.read(tmp_path / name)
    with pytest.raises(DissectError, match=r"is a folder: name the file in it, such as cut\.pt"):
        checkpoints.read(tmp_path)
    with pytest.raises(MissingResource, match=r"gone\.pt"):
        checkpoints.read(tmp_path / "gone.pt")
    with pytest.raises(MissingResource):
        checkpoints.read(tmp_path / "good.pt" / "inside.pt")
    (tmp_path / "renamed.pt").write_bytes((tmp_path / "good.safetensors").read_bytes())
    (tmp_path / "renamed.safetensors").write_bytes((tmp_path / "good.pt").read_bytes())
    for name in ("good.pt", "old.pt", "good.safetensors", "renamed.pt", "renamed.safetensors"):
        assert checkpoints.read(tmp_path / name)["weight"].shape == (300, 30)

    def forbidden(path: Path, *arguments: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", forbidden)  # root may read whatever the mode says
    with pytest.raises(DissectError, match=r"good\.pt can't be read \(Permission denied\)"):
        checkpoints.read(tmp_path / "good.pt")
