"""Similarity functions between units and concepts: all of the paper's, exact and streaming."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from clipdissect.similarity.base import Similarity
from clipdissect.similarity.cosine import Cosine, CosineCubed
from clipdissect.similarity.function import Function, PlainFunction
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


def resolve(given: Similarity | PlainFunction | Mapping[str, Any] | str) -> Similarity:
    """Return a similarity of one, a name, a mapping with parameters, or a plain function.

    Raises:
        DissectError: something else, or an unknown name or parameter.
    """
    if isinstance(given, Similarity):
        return given
    if callable(given) and not isinstance(given, type):
        return Function(given)
    return registry.named("similarity", build, given)


__all__ = [
    "OPTIONS",
    "Best",
    "ConceptActivations",
    "Function",
    "PlainFunction",
    "Similarity",
    "TopActivations",
    "build",
    "merge",
    "ranks",
    "resolve",
    "top_images",
]
