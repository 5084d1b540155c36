"""Targets: networks to dissect, by name. `OPTIONS` lists the functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from clipdissect.errors import DissectError
from clipdissect.models import layer_patterns
from clipdissect.models.layer_patterns import LayerFilter
from clipdissect.models.remembered import remembered
from clipdissect.targets.base import Target
from clipdissect.targets.efficientnet import PRESETS as EFFICIENTNETS
from clipdissect.targets.known_preprocess import as_transform, known_preprocess
from clipdissect.targets.lazy import LazyTarget, facts_of
from clipdissect.targets.own import checkpoint, hub_dir, module
from clipdissect.targets.places import resnet18_places365
from clipdissect.targets.programs import exported
from clipdissect.targets.timm import timm
from clipdissect.targets.torchvision import PRESETS, torchvision
from clipdissect.targets.wrappers import unwrap
from clipdissect.utils import registry
from clipdissect.utils.hashing import Transform

OPTIONS: dict[str, Callable[..., Target]] = {
    "checkpoint": checkpoint,
    "exported": exported,
    "hub_dir": hub_dir,
    "module": module,
    "resnet18_places365": resnet18_places365,
    "timm": timm,
    "torchvision": torchvision,
    **EFFICIENTNETS,
    **PRESETS,
}

# Functions that run no code of users; they note the files that they read.
_REMEMBERED = {
    name: OPTIONS[name]
    for name in ("resnet18_places365", "timm", "torchvision", *EFFICIENTNETS, *PRESETS)
}

__all__ = ["OPTIONS", "Target", "build", "lazily", "resolve"]


def build(name: str, **parameters: Any) -> Target:
    """Return the target of that name.

    Raises:
        DissectError: unknown name or parameter; lists the valid ones.
    """
    target: Target = registry.build("target", OPTIONS, name, parameters)
    return target


def lazily(name: str, **parameters: Any) -> Target:
    """Return the target of that name; if its facts are remembered, it is built at first use.

    `replace` can't change `model` and `preprocess` of what this returns: see `with_preprocess`.

    Raises:
        DissectError: as `build`.
    """
    make = partial(build, name, **parameters)
    if name not in _REMEMBERED or OPTIONS.get(name) is not _REMEMBERED[name]:
        return make()
    found = remembered("target", name, parameters, make, facts_of, lambda target: [target.model])
    return LazyTarget.of(found) if found.lasts else found.built


def resolve(
    model: nn.Module | Target | Mapping[str, Any] | str,
    layers: Sequence[str] | LayerFilter | None = None,
    preprocess: Any = None,
) -> Target:
    """Return a target from a network, a `Target` or a name; see `api.dissect`.

    Raises:
        DissectError: something else, a filter that selects no layer, or a plain network whose
            preprocessing is neither given nor known.
    """
    chosen: Any = layers
    names = layer_patterns.check(chosen)
    transform = None if preprocess is None else as_transform(preprocess)
    if isinstance(model, (str, Mapping)):
        model = registry.named("target", lazily, model)
    if isinstance(model, nn.Module):
        model, transform = _of_network(unwrap(model), transform), None
    if not isinstance(model, Target):
        raise DissectError(
            "model must be a torch.nn.Module, a Target or a target's name; got "
            + (f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__)
        )
    if chosen is not None:
        names = layer_patterns.select(model.model, chosen) if names is None else names
        model = replace(model, layers=names)
    return model.with_preprocess(transform) if transform else model


def _of_network(model: nn.Module, transform: Transform | None) -> Target:
    name = type(model).__name__
    if transform:
        return Target(name, model, transform)
    known = known_preprocess(model)
    return Target(name, model, known.transform, notes=(known.note,), weights=known.weights)
