"""Tables of descriptions and top images for one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.kept import Activations, dead_units, few_distinct, for_scoring, top_of, units_of
from clipdissect.similarity import Similarity, ranks
from clipdissect.similarity.inputs import Best, ConceptActivations

DEAD = "dead"
FEW = "few_distinct"
TIED = "tied"


def describe_layer(
    layer: str,
    activations: Activations,
    concept_activations: ConceptActivations,
    texts: Sequence[str],
    similarity: Similarity,
    top: int,
    truth: Sequence[str] | None = None,
) -> pd.DataFrame:
    """One row a unit: its best concepts with their similarities, its margin, its flags.

    With the truth known, also `truth_rank`: where the right concept stands among all, from 1; NaN
    where it isn't among them or the unit is dead.

    Units that never vary are flagged `dead`, get no description, and take no part in the scoring:
    their top images are arbitrary, and a marginal over units would count them. Units with fewer
    than `top_k` distinct activations are flagged `few_distinct`, those whose best two concepts have
    equal scores `tied` (a layer's only live unit is, where the marginal takes all of its score).

    Args:
        layer: its name.
        activations: `q [images, units]`, or its running top images.
        concept_activations: of the same images.
        texts: the concepts.
        similarity: from `similarity.build`.
        top: concepts per unit.
        truth: the right concept of each unit.

    Raises:
        DissectError: another number of right concepts than units.
    """
    units = units_of(activations)
    if truth is not None and len(truth) != units:
        raise DissectError(f"layer {layer} has {units} units, but {len(truth)} right labels")
    dead = dead_units(activations)
    table: dict[str, Any] = {"layer": [layer] * units, "unit": np.arange(units)}
    if dead.all():
        best = _none_best(min(top, len(texts)))
    else:
        best = similarity.top(concept_activations, for_scoring(activations, ~dead), top)
    table |= _columns(best, texts, (~dead).numpy())
    few = few_distinct(activations, similarity.parameters.get("top_k"))
    tied = np.asarray(table["margin"]) == 0
    table["flags"] = np.select([dead.numpy(), tied, few.numpy()], [DEAD, TIED, FEW], "")
    if truth is not None:
        table["truth_rank"] = _truth_ranks(
            activations, concept_activations, texts, similarity, truth, ~dead
        )
    return _frame(table)


def top_images_of_layer(
    layer: str, activations: Activations, images: Sequence[str], count: int
) -> pd.DataFrame:
    """The most activating images of every unit: `layer, unit, rank` (from 1), `image, activation`.

    Args:
        layer: its name.
        activations: `q [images, units]`, or its running top images.
        images: the images' names.
        count: images per unit; all of them where there are fewer.
    """
    top = top_of(activations, count)
    k, units = top.values.shape
    return _frame({
        "layer": layer,
        "unit": np.repeat(np.arange(units), k),
        "rank": np.tile(np.arange(1, k + 1), units),
        "image": np.asarray(images, dtype=object)[top.indices.T.reshape(-1).cpu().numpy()],
        "activation": top.values.T.reshape(-1).cpu().numpy(),
    })  # fmt: skip


def _truth_ranks(
    activations: Activations, concept_activations: ConceptActivations, texts: Sequence[str],
    similarity: Similarity, truth: Sequence[str], live: Bool[Tensor, " units"],
) -> Float[np.ndarray, " units"]:  # fmt: skip
    """Ranks of the right concepts; NaN where one isn't among the texts, or the unit is dead."""
    number = {text: i for i, text in enumerate(texts)}
    wanted = torch.tensor([number.get(text, -1) for text in truth], dtype=torch.int64)[live]
    out = np.full(len(live), np.nan)
    if (wanted >= 0).any():
        found = ranks(similarity, concept_activations, for_scoring(activations, live), wanted)
        out[live.numpy()] = np.where((wanted >= 0).numpy(), found.cpu().numpy(), np.nan)
    return out


def _none_best(n: int) -> Best:
    return Best(torch.zeros(0, n, dtype=torch.long), torch.zeros(0, n), torch.zeros(0))


def _frame(columns: dict[str, Any]) -> pd.DataFrame:
    frame: pd.DataFrame = pd.DataFrame(columns)
    return frame


def _columns(best: Best, texts: Sequence[str], live: Bool[np.ndarray, " units"]) -> dict[str, Any]:
    words = np.asarray(texts, dtype=object)
    columns: dict[str, Any] = {}
    for rank in range(best.concepts.shape[1]):
        ending = "" if rank == 0 else f"_{rank + 1}"
        names = words[best.concepts[:, rank].cpu().numpy()]
        columns[f"description{ending}"] = _spread(names, live, "")
        columns[f"similarity{ending}"] = _spread(best.scores[:, rank].cpu().numpy(), live, np.nan)
    columns["margin"] = _spread(best.margin.cpu().numpy(), live, np.nan)
    return columns


def _spread(
    values: Shaped[np.ndarray, " live"], live: Bool[np.ndarray, " units"], filler: Any
) -> Shaped[np.ndarray, " units"]:
    """Values of live units put in their places among all units."""
    spread = np.full(len(live), filler, dtype=values.dtype)
    spread[live] = values
    return spread
