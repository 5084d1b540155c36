"""Networks of every make have the same key when they are made again, and another one with another
weight."""

from __future__ import annotations

import enum
import random
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import Float, jaxtyped
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from clipdissect.utils import hashing


class Mode(enum.Enum):
    """What a network may hold as an option."""

    PLAIN = 1
    SCALED = 2


class Abstract(nn.Module, ABC):
    """A base class as frameworks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    @abstractmethod
    def scale(self) -> float:
        """A factor."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.scale()


class Concrete(Abstract):
    """One that can be built."""

    def scale(self) -> float:
        return 2.0


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value


def holding(name: str, value: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3))
        setattr(model, name, value())
        return model

    return make


def cyclic() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    one: dict[str, Any] = {}
    one["other"] = {"back": one}
    model.one = one
    object.__setattr__(model[0], "parent", model)
    model[1].parents = [model]
    model.weak = weakref.ref(model)
    return model


def with_handle() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3))
    nn.Linear(1, 1).register_forward_hook(print)  # moves torch's counter of hooks
    model.handle = model[0].register_forward_hook(lambda *_: None)
    return model


def normed(norm: Callable[..., Any], *arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        norm(model[0], *arguments)
        return model

    return make


def compiled() -> nn.Module:
    model = torch.compile(nn.Sequential(nn.Linear(3, 3)))
    assert isinstance(model, nn.Module)
    return model


def compiled_in_place() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3))
    model.compile()
    return model


def with_compiled_function() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3))
    model.act = torch.compile(torch.nn.functional.gelu)
    return model


class Checked(nn.Module):
    """One whose types are checked at run time."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    @jaxtyped(typechecker=beartype)
    def forward(self, x: Float[Tensor, "images 3"]) -> Float[Tensor, "images 3"]:
        return self.fc(x)


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "abstract": Concrete,
    "enum": holding("mode", lambda: Mode.SCALED),
    "cycle": cyclic,
    "handle": with_handle,
    "checked": Checked,
    "generator of torch": holding("state", lambda: torch.Generator().manual_seed(1)),
    "generator": holding("items", lambda: (i for i in [1, 2])),
    "iterator": holding("items", lambda: iter([1, 2])),
    "random": holding("random", lambda: random.Random(1)),
    "numpy random": holding("random", lambda: np.random.default_rng(1)),
    "lock": holding("lock", threading.Lock),
    "slots": holding("object", lambda: Slotted(2.0)),
    "sentinel": holding("nothing", object),
    "bound": holding("put", lambda: [].append),
    "weight norm": normed(weight_norm),
    "weight norm, parametrised": normed(parametrizations.weight_norm),
    "spectral norm": normed(spectral_norm),
    "spectral norm, parametrised": normed(parametrizations.spectral_norm),
    "orthogonal": normed(parametrizations.orthogonal),
    "pruned": normed(prune.l1_unstructured, "weight", 0.5),
    "compiled": compiled,
    "compiled in place": compiled_in_place,
    "compiled function": with_compiled_function,
    "traced": lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3))),
    "exported": lambda: torch.export.export(
        nn.Sequential(nn.Linear(3, 3)).eval(), (torch.zeros(1, 3),)
    ).module(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MAKERS)
def test_key_comes_again_and_changes_with_a_weight(name: str) -> None:
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(MAKERS[name]())
    first, second = made
    key = hashing.hash_model(first)
    assert not hashing.is_transient(key)
    assert hashing.hash_model(second) == key
    with torch.no_grad():
        next(second.parameters()).flatten()[0].add_(1e-3)
    assert hashing.hash_model(second) != key


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("mode", Mode.PLAIN, Mode.SCALED),
        ("object", Slotted(1.0), Slotted(2.0)),
        ("state", torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
        ("items", iter([1]), iter([2])),
        ("random", random.Random(1), random.Random(2)),
        ("items", (i for i in [1]), (i for i in [2])),
        ("put", [1].append, [2].append),
        ("keys", {Mode.PLAIN: 1}, {Mode.SCALED: 1}),
        ("lens", [len], [sum]),
    ],
)
def test_what_such_objects_hold_is_noticed(name: str, one: Any, other: Any) -> None:
    def key(value: Any) -> str:
        torch.manual_seed(0)
        return hashing.hash_model(holding(name, lambda: value)())

    assert key(one) != key(other)


def test_state_of_a_hook_that_is_a_method_is_noticed() -> None:
    class Scale:
        def __init__(self, factor: float) -> None:
            self.factor = factor

        def hook(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return output * self.factor

    def key(factor: float) -> str:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3))
        model[0].register_forward_hook(Scale(factor).hook)
        return hashing.hash_model(model)

    assert key(1.0) == key(1.0)
    assert key(1.0) != key(2.0)


def test_objects_that_raise_when_they_are_looked_at_never_match() -> None:
    class Broken(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("not now")

    model = holding("options", Broken)()
    assert hashing.is_transient(hashing.hash_model(model))
