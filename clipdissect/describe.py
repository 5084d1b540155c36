"""Tables of descriptions and top images, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.kept import Activations, dead_units, few_distinct, for_scoring, top_of, units_of
from clipdissect.similarity import Similarity, ranks
from clipdissect.similarity.inputs import Best, ConceptActivations, TopActivations
from clipdissect.similarity.ranking import beside

DEAD = "dead"
FEW = "few_distinct"
TIED = "tied"


@dataclass(frozen=True)
class _Layer:
    """What is kept of a layer until all are described.

    Args:
        name: dotted module name.
        live: units that vary, `[units]`.
        few: units with fewer than `top_k` distinct activations, `[units]`.
        ranks: where each unit's right concept stands, `[units]`; None where none is known.
    """

    name: str
    live: Bool[np.ndarray, " units"]
    few: Bool[np.ndarray, " units"]
    ranks: Float[np.ndarray, " units"] | None


class Describer:
    """Describes layers that are handed to it one by one, so that one at a time is in memory.

    Similarity functions that look at the top images only are computed for all layers at once, in
    `tables`: concept activations and their softmax are then worked out once, and they cost as much
    as the scores of a layer. A layer with known truth is scored when it is added, since
    `truth_rank` must go by the very scores that the description goes by.

    Args:
        concept_activations: of the layers' images.
        texts: the concepts.
        similarity: from `similarity.build`.
        top: concepts per unit.
    """

    def __init__(
        self, concept_activations: ConceptActivations, texts: Sequence[str],
        similarity: Similarity, top: int,
    ) -> None:  # fmt: skip
        self._concept_activations, self._texts = concept_activations, texts
        self._similarity, self._top = similarity, top
        self._layers: list[_Layer] = []
        self._best: dict[str, Best] = {}
        self._waiting: dict[str, TopActivations] = {}

    def add(self, layer: str, activations: Activations, truth: Sequence[str] | None = None) -> None:
        """Take in a layer; its activations aren't held.

        Args:
            layer: its name.
            activations: `q [images, units]`, or its running top images.
            truth: the right concept of each unit.

        Raises:
            DissectError: another number of right concepts than units; as `Similarity.top`.
        """
        units = units_of(activations)
        if truth is not None and len(truth) != units:
            raise DissectError(f"layer {layer} has {units} units, but {len(truth)} right labels")
        live, top_k = ~dead_units(activations), self._similarity.parameters.get("top_k")
        top = None if top_k is None else top_of(activations, top_k)
        few = few_distinct(activations, top)
        right = None if truth is None else self._truth_ranks(activations, truth, live)
        self._layers.append(_Layer(layer, live.numpy(), few.numpy(), right))
        if not live.any():
            self._best[layer] = _none_best(min(self._top, len(self._texts)))
        elif top is None or self._similarity.needs_all or truth is not None:
            self._best[layer] = self._scored(for_scoring(activations, live))
        else:
            self._waiting[layer] = top.select(live)

    def tables(self) -> list[pd.DataFrame]:
        """A table as of `describe_layer` for each layer, in the order they were added."""
        if self._waiting:
            together = beside(list(self._waiting.values()))
            parts = _split(self._scored(together), together.layers)
            self._best |= zip(self._waiting, parts, strict=True)
            self._waiting = {}
        return [self._table(layer, self._best[layer.name]) for layer in self._layers]

    def _scored(self, q: Tensor | TopActivations) -> Best:
        return self._similarity.top(self._concept_activations, q, self._top)

    def _table(self, layer: _Layer, best: Best) -> pd.DataFrame:
        units = len(layer.live)
        table: dict[str, Any] = {"layer": [layer.name] * units, "unit": np.arange(units)}
        table |= _columns(best, self._texts, layer.live)
        tied = np.asarray(table["margin"]) == 0
        table["flags"] = np.select([~layer.live, tied, layer.few], [DEAD, TIED, FEW], "")
        if layer.ranks is not None:
            table["truth_rank"] = layer.ranks
        return _frame(table)

    def _truth_ranks(
        self, activations: Activations, truth: Sequence[str], live: Bool[Tensor, " units"]
    ) -> Float[np.ndarray, " units"]:
        """Ranks of the right concepts; NaN where one isn't among the texts, or the unit is dead.

        Among the different texts: copies of one have one embedding, so the first stands for all.
        """
        first = {text: i for i, text in reversed([*enumerate(self._texts)])}
        wanted = torch.tensor([first.get(text, -1) for text in truth], dtype=torch.int64)[live]
        out = np.full(len(live), np.nan)
        if (wanted >= 0).any():
            rivals = None
            if len(first) < len(self._texts):
                rivals = torch.zeros(len(self._texts), dtype=torch.bool)
                rivals[list(first.values())] = True
            q = for_scoring(activations, live)
            found = ranks(self._similarity, self._concept_activations, q, wanted, rivals)
            out[live.numpy()] = found.numpy()
        return out


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

    With the truth known, also `truth_rank`: where the right concept stands among all different
    texts, from 1, tied ones in the middle of their ranks; NaN where it isn't among them or the unit
    is dead.

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
        DissectError: another number of right concepts than units; as `Similarity.top`.
    """
    describer = Describer(concept_activations, texts, similarity, top)
    describer.add(layer, activations, truth)
    return describer.tables()[0]


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


def _none_best(n: int) -> Best:
    return Best(torch.zeros(0, n, dtype=torch.long), torch.zeros(0, n), torch.zeros(0))


def _split(best: Best, units: Sequence[int]) -> list[Best]:
    """The best concepts of each layer, of several described together."""
    tensors = (best.concepts, best.scores, best.margin)
    parts = (torch.split(tensor, list(units)) for tensor in tensors)
    return [Best(*part) for part in zip(*parts, strict=True)]


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
