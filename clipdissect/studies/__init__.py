"""The paper's studies of descriptions, run by `experiments/`; `OPTIONS` lists them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clipdissect.studies.class_from_descriptions import ClassFromDescriptions
from clipdissect.studies.compositional_concepts import CompositionalConcepts
from clipdissect.studies.missing_concepts import MissingConcepts
from clipdissect.studies.qualitative import Qualitative
from clipdissect.studies.weight_similarity import WeightSimilarity
from clipdissect.utils import registry

OPTIONS: dict[str, Callable[..., Any]] = {
    "class_from_descriptions": ClassFromDescriptions,
    "compositional_concepts": CompositionalConcepts,
    "missing_concepts": MissingConcepts,
    "qualitative": Qualitative,
    "weight_similarity": WeightSimilarity,
}

__all__ = ["OPTIONS", "build"]


def build(name: str, **parameters: Any) -> Any:
    return registry.build("study", OPTIONS, name, parameters)
