"""A network whose units detect known concepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clipdissect.targets import Target


@dataclass(frozen=True)
class Planted:
    """A target and the ground truth of its units.

    Args:
        target: its `layers` are the planted ones.
        truth: layer to each unit's concept, written as `Concept.text` or, for formulas, as
            `masks.formulas.Formula.text`.
    """

    target: Target
    truth: Mapping[str, tuple[str, ...]]
