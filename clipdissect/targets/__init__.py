"""Targets: networks to dissect, by name. `OPTIONS` lists the functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipdissect.targets.base import Target
from clipdissect.targets.efficientnet import PRESETS as EFFICIENTNETS
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

__all__ = ["OPTIONS", "Target", "build"]


def build(name: str, **parameters: Any) -> Target:
    """Return the target of that name.

    Raises:
        DissectError: unknown name or parameter; lists the valid ones.
    """
    target: Target = registry.build("target", OPTIONS, name, parameters)
    return target
