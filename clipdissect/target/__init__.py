"""Targets: networks to dissect, by name. `OPTIONS` lists the functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipdissect import options
from clipdissect.target.base import Target
from clipdissect.target.efficientnet import efficientnet_lite0, efficientnet_lite2
from clipdissect.target.torchvision import torchvision

OPTIONS: dict[str, Callable[..., Target]] = {
    "efficientnet_lite0": efficientnet_lite0,
    "efficientnet_lite2": efficientnet_lite2,
    "torchvision": torchvision,
}

__all__ = ["OPTIONS", "Target", "build"]


def build(name: str, **parameters: Any) -> Target:
    """The target of a name.

    Raises:
        DissectError: unknown name or parameter; lists the valid ones.
    """
    target: Target = options.call("target", OPTIONS, name, parameters)
    return target
