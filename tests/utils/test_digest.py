"""Digests change with everything that numbers depend on, and with nothing else."""

from __future__ import annotations

import ast
import logging
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from types import MethodType

import numpy as np
import pytest
import torch
from PIL import Image
from test_digest_stable import MAKERS
from tiny import ColourNet, preprocess
from torch import Tensor, nn
from torchvision import transforms

from clipdissect.errors import DissectError
from clipdissect.utils import fingerprint, hashing


def test_equal_networks_have_equal_digests_in_any_mode() -> None:
    assert hashing.hash_model(ColourNet()) == hashing.hash_model(ColourNet().train())


def test_one_changed_weight_or_buffer_is_noticed() -> None:
    before = hashing.hash_model(ColourNet())
    changed = ColourNet()
    with torch.no_grad():
        changed.head.weight[0, 0] += 1e-6
    assert hashing.hash_model(changed) != before
    norm, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    other.running_mean += 1
    assert hashing.hash_model(norm) != hashing.hash_model(other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.complex64])
def test_elements_count_in_order_whatever_the_layout(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).remainder(7).to(dtype)
    spread = values.contiguous(memory_format=torch.channels_last)
    before = fingerprint.hash_elements(values)
    assert fingerprint.hash_elements(spread) == before
    assert fingerprint.hash_elements(values.flip(0)) != before
    monkeypatch.setattr(fingerprint, "PART", 7)  # in several parts
    assert fingerprint.hash_elements(spread) == before
    last = values.clone()
    last[-1, -1, -1, -1] = ~last[-1, -1, -1, -1] if dtype == torch.bool else 99
    assert fingerprint.hash_elements(last) != before


def test_tensors_without_elements_have_a_digest() -> None:
    empty = nn.Module()
    empty.register_buffer("none", torch.empty(0, 3))
    assert hashing.hash_model(empty) != hashing.hash_model(nn.Module())


def test_the_number_of_threads_is_the_same_afterwards() -> None:
    before = torch.get_num_threads()
    seen = []

    def watched(image: Image.Image) -> Tensor:
        seen.append(torch.get_num_threads())
        return torch.zeros(3, 2, 2)

    torch.set_num_threads(2)
    try:
        hashing.hash_transform(watched)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


def test_attributes_without_tensors_are_noticed() -> None:
    assert hashing.hash_model(nn.LeakyReLU(0.1)) != hashing.hash_model(nn.LeakyReLU(0.2))
    assert hashing.hash_model(nn.Conv2d(1, 1, 1, stride=1)) != hashing.hash_model(nn.MaxPool2d(1))


class Base(nn.Module):
    """A linear layer whose behaviour can be changed in ways that leave its tensors alone."""

    SCALE = 1.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(2, 2)
        self.config = {"scale": [1.0]}
        self._private = 1.0
        self.plain = torch.ones(2)
        self.array = np.ones(2)
        self.act = partial(torch.mul, other=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.fc(x))


def with_forward(factor: float) -> nn.Module:
    class Model(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) * factor

    return Model()


def with_default(factor: float) -> nn.Module:
    class Model(Base):
        def forward(self, x: Tensor, factor: float = factor) -> Tensor:
            return self.fc(x)

    return Model()


def with_patched_method(factor: float) -> nn.Module:
    model = Base()
    model.forward = MethodType(lambda self, x: self.fc(x) * factor, model)  # type: ignore[method-assign]
    return model


def with_hook(factor: float) -> nn.Module:
    model = Base()
    model.fc.register_forward_hook(lambda module, inputs, output: output * factor)
    return model


def with_attribute(name: str, value: object) -> nn.Module:
    model = Base()
    setattr(model, name, value)
    return model


@pytest.mark.parametrize("make", [with_forward, with_default, with_patched_method, with_hook])
def test_code_closures_defaults_and_hooks_are_noticed(make: Callable[[float], nn.Module]) -> None:
    assert hashing.hash_model(make(2.0)) == hashing.hash_model(make(2.0))
    assert hashing.hash_model(make(2.0)) != hashing.hash_model(make(3.0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("config", {"scale": [2.0]}),
        ("_private", 2.0),
        ("plain", torch.zeros(2)),
        ("array", np.zeros(2)),
        ("act", partial(torch.mul, other=2)),
        ("act", nn.functional.relu),
        ("extra", [nn.Linear(1, 1)]),
    ],
)
def test_attributes_of_every_kind_are_noticed(name: str, value: object) -> None:
    assert hashing.hash_model(with_attribute(name, value)) != hashing.hash_model(Base())


def test_class_attributes_and_replaced_methods_are_noticed() -> None:
    class Model(Base):
        pass

    before = hashing.hash_model(Model())
    Model.SCALE = 2.0
    changed = hashing.hash_model(Model())
    assert changed != before
    Model.forward = lambda self, x: x  # type: ignore[method-assign]
    assert hashing.hash_model(Model()) != changed


def digests() -> list[tuple[str, str]]:
    """Return names and digests of all kinds of networks, whose weights are drawn."""
    found = [("base", hashing.hash_model(Base())), ("hook", hashing.hash_model(with_hook(2.0)))]
    for name, make in MAKERS.items():
        torch.manual_seed(0)
        found.append((name, hashing.hash_model(make())))
    return found


def test_digest_is_the_same_in_every_process() -> None:
    code = (
        "import warnings; warnings.simplefilter('ignore'); import test_digest; "
        "print(test_digest.digests())"
    )
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    assert ast.literal_eval(done.stdout) == digests()


def test_repeated_modules_without_tensors_count_each_time() -> None:
    pool, relu, tanh = nn.AvgPool2d(2), nn.ReLU(), nn.Tanh()
    assert hashing.hash_model(nn.Sequential(pool, pool)) != hashing.hash_model(nn.Sequential(pool))
    first, second = nn.Sequential(relu, tanh, relu), nn.Sequential(relu, tanh, tanh)
    assert hashing.hash_model(first) != hashing.hash_model(second)


def test_packed_weights_are_noticed() -> None:
    class Packed(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.__dict__["_value"] = None
            self.register_state_dict_post_hook(lambda m, d, *_: d.update(packed=(value, None)))

        def forward(self, x: Tensor) -> Tensor:
            return x

    assert hashing.hash_model(Packed(1.0)) != hashing.hash_model(Packed(2.0))


def test_empty_closure_cells_keep_their_places() -> None:
    def make(a: float | None, b: float | None) -> nn.Module:
        model = Base()
        model.act = lambda x: x if a is None else x + (b or a)
        return model

    assert hashing.hash_model(make(None, 2.0)) != hashing.hash_model(make(2.0, None))


def test_callable_objects_by_their_code_and_loggers_by_name() -> None:
    class One:
        def __call__(self, x: Tensor) -> Tensor:
            return x

    class Two:
        def __call__(self, x: Tensor) -> Tensor:
            return -x

    One.__qualname__ = Two.__qualname__ = "Act"
    assert hashing.hash_model(with_attribute("act", One())) != hashing.hash_model(
        with_attribute("act", Two())
    )
    before = hashing.hash_model(with_attribute("log", logging.getLogger("a")))
    logging.getLogger("something.else")
    assert hashing.hash_model(with_attribute("log", logging.getLogger("a"))) == before


def test_what_cannot_be_looked_into_never_matches_and_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hashing._warn_of_opaque.cache_clear()  # it warns once in a process
    opaque = with_attribute("handle", memoryview(b"1"))
    first, second = hashing.hash_model(opaque), hashing.hash_model(opaque)
    assert first != second
    assert hashing.is_transient(first)
    assert hashing.is_transient(hashing.hash_values("made of it", [first, 1]))
    assert not hashing.is_transient(hashing.hash_model(Base()))
    assert "Base has attributes that can't be hashed (builtins.memoryview)" in caplog.text


def test_modules_in_a_plain_list_in_any_mode() -> None:
    model = with_attribute("extra", [nn.Dropout()])
    before = hashing.hash_model(model)
    model.extra[0].eval()
    assert hashing.hash_model(model) == before


def test_half_and_scalar_tensors() -> None:
    module = nn.Module()
    module.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.bfloat16))
    other = nn.Module()
    other.scale = nn.Parameter(torch.tensor(3.0, dtype=torch.bfloat16))
    assert hashing.hash_model(module) != hashing.hash_model(other)


def test_transforms_by_what_they_do() -> None:
    base = hashing.hash_transform(preprocess(8))
    assert hashing.hash_transform(lambda image: preprocess(8)(image)) == base
    assert hashing.hash_transform(preprocess(9)) != base
    shifted = transforms.Compose([preprocess(8), transforms.Normalize([0.1] * 3, [1.0] * 3)])
    assert hashing.hash_transform(shifted) != base
    nearest = transforms.Compose(
        [
            transforms.Resize((8, 8), interpolation=transforms.InterpolationMode.NEAREST),
            transforms.ToTensor(),
        ]
    )
    assert hashing.hash_transform(nearest) != base


def test_random_transform_is_refused() -> None:
    crop = transforms.Compose([transforms.RandomCrop(30), transforms.ToTensor()])
    with pytest.raises(DissectError, match="evaluation transform"):
        hashing.hash_transform(crop)


@pytest.mark.parametrize("chance", [0.5, 0.01])
def test_random_flip_is_refused_however_it_falls(chance: float) -> None:
    flip = transforms.Compose([preprocess(8), transforms.RandomHorizontalFlip(chance)])
    for _ in range(10):
        with pytest.raises(DissectError, match="evaluation transform"):
            hashing.hash_transform(flip)


def from_python(image: Tensor) -> Tensor:
    return image.flip(2) if random.random() < 0.01 else image


def from_numpy(image: Tensor) -> Tensor:
    return image.flip(2) if np.random.rand() < 0.01 else image  # noqa: NPY002


def from_torch(image: Tensor) -> Tensor:
    return image.flip(2) if torch.rand(()) < 0.01 else image


def from_own_generator(image: Tensor) -> Tensor:
    return image.flip(2) if torch.empty(()).uniform_(generator=GENERATOR) < 0.01 else image


GENERATOR = torch.Generator()


@pytest.mark.parametrize("draw", [from_python, from_numpy, from_torch, from_own_generator])
def test_draws_are_noticed_wherever_they_come_from(draw: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(DissectError, match="evaluation transform"):
        hashing.hash_transform(lambda image: draw(preprocess(8)(image)))


@pytest.mark.parametrize("step", [torch.rand, np.random.rand])
def test_other_threads_may_draw(step: Callable[..., object]) -> None:
    done = threading.Event()

    def draw() -> None:
        while not done.wait(0.005):
            step(1)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        found = {hashing.hash_transform(preprocess(8)) for _ in range(5)}
    finally:
        done.set()
        thread.join()
    assert len(found) == 1


def test_transform_without_tensor_is_refused() -> None:
    with pytest.raises(DissectError, match="ToTensor"):
        hashing.hash_transform(transforms.Resize(8))
    with pytest.raises(DissectError, match=r"\(1, 3, 8, 8\)"):
        hashing.hash_transform(lambda image: preprocess(8)(image)[None])


def test_of_distinguishes_structure() -> None:
    assert hashing.hash_values("a", "bc") != hashing.hash_values("ab", "c")
    assert hashing.hash_values(["a"], "b") != hashing.hash_values(["a", "b"])


def test_pattern_is_fixed() -> None:
    image = hashing._pattern(5, 4)
    assert isinstance(image, Image.Image)
    assert image.getpixel((1, 1)) == (4, 0, 0)
