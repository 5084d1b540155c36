"""Targets: networks to dissect, by name. `OPTIONS` lists the functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from clipdissect.models.remembered import remembered
from clipdissect.targets.base import Target
from clipdissect.targets.efficientnet import PRESETS as EFFICIENTNETS
from clipdissect.targets.lazy import LazyTarget, facts_of
from clipdissect.targets.own import checkpoint, hub_dir, module
from clipdissect.targets.places import resnet18_places365
from clipdissect.targets.programs import exported
from clipdissect.targets.timm import timm
from clipdissect.targets.torchvision import PRESETS, torchvision
from clipdissect.utils import registry

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

__all__ = ["OPTIONS", "Target", "build", "lazily"]


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
