"""Similarity functions between units and concepts: all of the paper's, exact and streaming."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipdissect.similarity.base import Similarity
from clipdissect.similarity.cosine import Cosine, CosineCubed
from clipdissect.similarity.inputs import Best, ConceptActivations, TopActivations
from clipdissect.similarity.lp import Lp
from clipdissect.similarity.rank_reorder import RankReorder
from clipdissect.similarity.ranking import merge, top_images
from clipdissect.similarity.ranks import ranks
from clipdissect.similarity.soft_wpmi import SoftWpmi
from clipdissect.similarity.wpmi import Wpmi
from clipdissect.utils import registry

OPTIONS: dict[str, Callable[..., Similarity]] = {
    "soft_wpmi": SoftWpmi,
    "wpmi": Wpmi,
    "rank_reorder": RankReorder,
    "cosine": Cosine,
    "cosine_cubed": CosineCubed,
    "lp": Lp,
}


def build(name: str, **parameters: Any) -> Similarity:
    """Build a similarity function by its name in `OPTIONS`; raise a DissectError if invalid."""
    function: Similarity = registry.build("similarity", OPTIONS, name, parameters)
    return function


__all__ = [
    "OPTIONS",
    "Best",
    "ConceptActivations",
    "Similarity",
    "TopActivations",
    "build",
    "merge",
    "ranks",
    "top_images",
]
