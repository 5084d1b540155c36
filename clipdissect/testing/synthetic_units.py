"""A network with planted units, and what they detect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clipdissect.targets import Target


@dataclass(frozen=True)
class Planted:
    """A target and the truth on its units.

    Args:
        target: its `layers` are the planted ones.
        truth: layer to its units' concepts in words, as `annotations.Concept.text` has them; units
            of formulas have these in words, as `masks.formulas.Formula.text` has them.
    """

    target: Target
    truth: Mapping[str, tuple[str, ...]]
