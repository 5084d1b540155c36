"""Tables of descriptions and top images for one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from clipdissect.similarity import Similarity
from clipdissect.similarity.inputs import Best, ConceptActivations
from clipdissect.similarity.ranking import top_images

DEAD = "dead"
FEW = "few_distinct"
TIED = "tied"


def describe_layer(
    layer: str,
    activations: Float[Tensor, "images units"],
    concept_activations: ConceptActivations,
    texts: Sequence[str],
    similarity: Similarity,
    top: int,
) -> pd.DataFrame:
    """One row a unit: its best concepts with their similarities, its margin, its flags.

    Units that never vary are flagged `dead`, get no description, and take no part in the scoring:
    their top images are arbitrary, and a marginal over units would count them. Units with fewer
    than `top_k` distinct activations are flagged `few_distinct`, those whose best two concepts have
    equal scores `tied` (a layer's only live unit is, where the marginal takes all of its score).

    Args:
        layer: its name.
        activations: `q [images, units]`.
        concept_activations: of the same images.
        texts: the concepts.
        similarity: from `similarity.build`.
        top: concepts per unit.
    """
    units = activations.shape[1]
    dead = activations.amax(0) == activations.amin(0)
    table: dict[str, Any] = {"layer": [layer] * units, "unit": np.arange(units)}
    if dead.all():
        best = _none_best(min(top, len(texts)))
    else:
        live = activations if not dead.any() else activations[:, ~dead]
        best = similarity.top(concept_activations, live, top)
    table |= _columns(best, texts, (~dead).numpy())
    few = few_distinct(activations, similarity.parameters.get("top_k"))
    tied = np.asarray(table["margin"]) == 0
    table["flags"] = np.select([dead.numpy(), tied, few.numpy()], [DEAD, TIED, FEW], "")
    return _frame(table)


def top_images_of_layer(
    layer: str, activations: Float[Tensor, "images units"], images: Sequence[str], count: int
) -> pd.DataFrame:
    """The most activating images of every unit: `layer, unit, rank` (from 1), `image, activation`.

    Args:
        layer: its name.
        activations: `q [images, units]`.
        images: the images' names.
        count: images per unit; all of them where there are fewer.
    """
    top = top_images(activations, min(count, len(images)))
    k, units = top.values.shape
    return _frame({
        "layer": layer,
        "unit": np.repeat(np.arange(units), k),
        "rank": np.tile(np.arange(1, k + 1), units),
        "image": np.asarray(images, dtype=object)[top.indices.T.reshape(-1).cpu().numpy()],
        "activation": top.values.T.reshape(-1).cpu().numpy(),
    })  # fmt: skip


def few_distinct(
    activations: Float[Tensor, "images units"], top_k: int | None
) -> Bool[Tensor, " units"]:
    """Which units have fewer than `top_k` distinct activations; none where `top_k` is None."""
    units = activations.shape[1]
    if top_k is None:
        return torch.zeros(units, dtype=torch.bool)
    # Most units have distinct top activations, which settles it; only the others are sorted whole.
    values = top_images(activations, top_k).values
    suspects = (values[1:] == values[:-1]).any(0).nonzero()[:, 0]
    ordered = activations[:, suspects].sort(0).values
    distinct = 1 + (ordered[1:] != ordered[:-1]).sum(0)
    few = torch.zeros(units, dtype=torch.bool)
    few[suspects] = distinct < top_k
    return few


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
