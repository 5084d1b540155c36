"""A target whose network is built at its first use."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from clipdissect.models.layer_patterns import split_layer
from clipdissect.models.remembered import Facts, Remembered
from clipdissect.targets.base import Target
from clipdissect.utils.hashing import Transform

PLAIN = ("name", "layers", "class_layer", "class_names", "notes", "weights")


@dataclass(frozen=True, repr=False, eq=False)
class LazyTarget(Target):
    """A target with remembered facts. Its network is the library's own: nobody changes it."""

    model: nn.Module = field(init=False)
    preprocess: Transform = field(init=False)
    source: Remembered[Target] = field(kw_only=True)

    @classmethod
    def of(cls, source: Remembered[Target]) -> LazyTarget:
        values = {name: source.facts[name] for name in PLAIN}
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values | lists, source=source)

    def __post_init__(self) -> None:
        if not {split_layer(layer)[0] for layer in self.layers} <= set(self.modules):
            expanded = replace(self.source.built, layers=self.layers).layers  # patterns
            object.__setattr__(self, "layers", expanded)

    def __getattr__(self, name: str) -> Any:
        if name in ("model", "preprocess"):
            return getattr(self.source.built, name)
        raise AttributeError(name)

    @property
    def digest(self) -> str:
        return str(self.source.facts["digest"])

    @property
    def preprocess_digest(self) -> str:
        return str(self.source.facts["preprocess"])

    @property
    def modules(self) -> tuple[str, ...]:
        return tuple(self.source.facts["modules"])

    def with_preprocess(self, preprocess: Transform) -> Target:
        values = {name: getattr(self, name) for name in (*PLAIN, "saes")}
        return Target(model=self.model, preprocess=preprocess, **values)


def facts_of(target: Target) -> Facts:
    """Return the facts of a target that a run on stored features needs, JSON-able."""
    return {
        **{name: getattr(target, name) for name in PLAIN},
        "digest": target.digest,
        "preprocess": target.preprocess_digest,
        "modules": target.modules,
    }
