"""A network whose units detect known concepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clipdissect.targets import Target


@dataclass(frozen=True)
class Planted:
    """A target of planted layers, and each layer's concepts or formulas per unit."""

    target: Target
    truth: Mapping[str, tuple[str, ...]]
