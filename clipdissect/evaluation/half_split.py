"""A search's objective: a metric of half of the units, so that the other half can judge the winner.

The best of many settings looks better than it is on the units it was chosen by. So the units of the
layer of classes are split in two: a search sees the metric of the tuning half alone, and the result
to report is that of the other half. Descriptions are of the whole layer in both: SoftWPMI and WPMI
compare a unit with all others, but know no class names.
"""

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
    """Two random halves of the units, each in order; the second has the odd one.

    Args:
        units: how many there are.
        seed: of the split.
    """
    order = np.random.default_rng(seed).permutation(units)
    return np.sort(order[: units // 2]), np.sort(order[units // 2 :])


def check(name: str, target: Target, concepts: Concepts, sentences: Sentences) -> None:
    """See that an objective will be defined, before any work.

    Args:
        name: `top1`, or `<sentence encoder>_cos`.
        target: must have classes, and their layer among its layers.
        concepts: must hold a class name for `top1`.
        sentences: the sentence encoder, or why there is none.

    Raises:
        DissectError: it is unknown or can't be defined; says why.
    """
    if not target.class_layer or not target.class_names:
        raise DissectError(f"objective {name}: target {target.name} has no units with class names")
    if target.class_layer not in target.layers:
        raise DissectError(
            f"objective {name} is of the units with class names, in layer {target.class_layer}: "
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
    name: str, descriptions: pd.DataFrame, target: Target, concepts: Concepts, sentences: Sentences,
    store: Store | None, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The metric of both halves of the units with class names.

    Args:
        name: of the metric, as `check` takes it.
        descriptions: of `dissect`.
        target, concepts, sentences, store: as for `evaluation.metrics`.
        seed: of the split.

    Returns:
        JSON-able `name`, `seed`, `tuning` and `report` (the values), `tuning_units` and
        `report_units` (how many).

    Raises:
        DissectError: the metric of a half is undefined; says why.
    """
    rows = descriptions[descriptions["layer"] == target.class_layer]
    found: dict[str, Any] = {"name": name, "seed": seed}
    for half, units in zip(("tuning", "report"), halves(len(rows), seed), strict=True):
        names = tuple(target.class_names[unit] for unit in units)
        measured = evaluation.metrics(
            rows.iloc[units], replace(target, class_names=names), concepts, sentences, store
        )["final_layer"]
        if measured.get(name) is None:
            reason = measured.get(f"{name}_reason", "it isn't measured")
            raise DissectError(f"objective {name} of the {half} half is undefined: {reason}")
        found |= {half: float(measured[name]), f"{half}_units": len(units)}
    return found
