"""Half-split objectives of a search: tune on half of the units, report on the held-out half."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from clipdissect import evaluation
from clipdissect.concepts import Concepts
from clipdissect.errors import DissectError, MissingResource, unknown
from clipdissect.evaluation import Sentences
from clipdissect.store import Store
from clipdissect.targets import Target


def halves(units: int, seed: int) -> tuple[Int[np.ndarray, " tuning"], Int[np.ndarray, " report"]]:
    """Split the unit numbers into random halves, each in order; an odd unit is in the second."""
    # The best of many settings is overestimated on the units that it was chosen by. Descriptions
    # use the whole layer in both halves: SoftWPMI and WPMI compare units, but see no class names.
    order = np.random.default_rng(seed).permutation(units)
    return np.sort(order[: units // 2]), np.sort(order[units // 2 :])


def check(name: str, target: Target, concepts: Concepts, sentences: Sentences) -> None:
    """Raise a DissectError, before any work, if an objective will be undefined.

    `name` is `top1`, which needs a class name among the concepts, or `<sentence encoder>_cos`.
    """
    if not target.class_layer or not target.class_names:
        raise DissectError(f"objective {name}: target {target.name} has no units with class names")
    if target.class_layer not in target.layers:
        raise DissectError(
            f"objective {name} needs the units with class names, in layer {target.class_layer}: "
            f"add it to the layers (target.layers=[{target.class_layer}])"
        )
    if isinstance(sentences, MissingResource) and name != "top1":
        raise DissectError(f"objective {name} is undefined: {sentences}")
    names = ["top1"]
    if sentences is not None and not isinstance(sentences, MissingResource):
        names.append(f"{sentences.name}_cos")
    if name not in names:
        raise unknown("objective", name, names)
    if name == "top1" and not set(target.class_names) & set(concepts.texts):
        raise DissectError(
            "objective top1 is undefined: no class name is among the concepts (concepts=imagenet "
            "has those of ImageNet)"
        )


def objective(
    name: str,
    descriptions: pd.DataFrame,
    target: Target,
    concepts: Concepts,
    sentences: Sentences,
    store: Store | None,
    seed: int = 0,
) -> dict[str, Any]:
    """Return a JSON-able metric, and numbers of units, on both halves of units with class names."""
    rows = descriptions[descriptions["layer"] == target.class_layer]
    result: dict[str, Any] = {"name": name, "seed": seed}
    for half, units in zip(("tuning", "report"), halves(len(rows), seed), strict=True):
        names = tuple(target.class_names[unit] for unit in units)
        measured = evaluation.metrics(
            rows.iloc[units], replace(target, class_names=names), concepts, sentences, store
        )["final_layer"]
        if measured.get(name) is None:
            reason = measured.get(f"{name}_reason", "it isn't measured")
            raise DissectError(f"objective {name} of the {half} half is undefined: {reason}")
        result |= {half: float(measured[name]), f"{half}_units": len(units)}
    return result
