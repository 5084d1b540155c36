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

from clipdissect.capture.activations import (
    Activations,
    dead_units,
    few_distinct,
    for_scoring,
    top_of,
    units_of,
)
from clipdissect.errors import DissectError
from clipdissect.results.flags import COLUMN, DEAD, FEW, TIED, flags_of
from clipdissect.similarity import Similarity, ranks
from clipdissect.similarity.inputs import Best, ConceptActivations, TopActivations
from clipdissect.similarity.ranking import concat_layers

NULL = "null_similarity"
SHUFFLED_BY = 0  # seed of the null's permutation of images


@dataclass(frozen=True)
class _Layer:
    """What is kept of a layer until all are described.

    Args:
        name: dotted module name.
        dead: units that never vary, `[units]`.
        scored: units that are described, `[units]`.
        few: units with fewer than `top_k` distinct activations, `[units]`.
        ranks: where each unit's right concept stands, `[units]`; None where none is known.
    """

    name: str
    dead: Bool[np.ndarray, " units"]
    scored: Bool[np.ndarray, " units"]
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
        null: also score every unit with shuffled images, for `null_similarity`.
    """

    def __init__(
        self, concept_activations: ConceptActivations, texts: Sequence[str],
        similarity: Similarity, top: int, null: bool = True,
    ) -> None:  # fmt: skip
        self._concept_activations, self._texts = concept_activations, texts
        self._similarity, self._top = similarity, top
        self._shuffled = shuffled(concept_activations) if null else None
        self._layers: list[_Layer] = []
        self._best: dict[str, Best] = {}
        self._null: dict[str, Tensor] = {}
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
        dead, top_k = dead_units(activations), self._similarity.images_per_unit
        scored = scored_units(dead, self._similarity)
        top = None if top_k is None else top_of(activations, top_k)
        few = few_distinct(activations, top)
        right = None if truth is None else self._truth_ranks(activations, truth, scored)
        self._layers.append(_Layer(layer, dead.numpy(), scored.numpy(), few.numpy(), right))
        if not scored.any():
            self._best[layer] = _none_best(min(self._top, len(self._texts)))
            self._null[layer] = torch.zeros(0, dtype=torch.float32)
        elif top is None or self._similarity.needs_all or truth is not None:
            self._score({layer: int(scored.sum())}, for_scoring(activations, scored))
        else:
            self._waiting[layer] = top.select(scored)

    def tables(self) -> list[pd.DataFrame]:
        """A table as of `describe_layer` for each layer, in the order they were added."""
        if self._waiting:
            together = concat_layers(list(self._waiting.values()))
            self._score(dict(zip(self._waiting, together.layers, strict=True)), together)
            self._waiting = {}
        return [self._table(layer, self._best[layer.name]) for layer in self._layers]

    def _score(self, units: dict[str, int], q: Tensor | TopActivations) -> None:
        """Score the units of one or several layers, and once more with shuffled images."""
        best = self._similarity.top(self._concept_activations, q, self._top)
        sizes = list(units.values())
        self._best |= zip(units, _split(best, sizes), strict=True)
        if self._shuffled is not None:
            null = self._similarity.top(self._shuffled, q, 1).scores[:, 0]
            self._null |= zip(units, torch.split(null, sizes), strict=True)

    def _table(self, layer: _Layer, best: Best) -> pd.DataFrame:
        units, scored = len(layer.dead), layer.scored
        table: dict[str, Any] = {"layer": [layer.name] * units, "unit": np.arange(units)}
        table |= _columns(best, self._texts, scored)
        tied = _spread(best.tied.cpu().numpy(), scored, False)
        table[COLUMN] = flags_of({DEAD: layer.dead, TIED: tied, FEW: layer.few})
        if self._shuffled is not None:
            table[NULL] = _spread(self._null[layer.name].cpu().numpy(), scored, np.nan)
        if layer.ranks is not None:
            table["truth_rank"] = np.where(layer.dead, np.nan, layer.ranks)
        return _frame(table)

    def _truth_ranks(
        self, activations: Activations, truth: Sequence[str], scored: Bool[Tensor, " units"]
    ) -> Float[np.ndarray, " units"]:
        """Ranks of the right concepts; NaN where one is missing, or the unit isn't scored.

        Among the different texts: copies of one have one embedding, so the first stands for all.
        """
        first = {text: i for i, text in reversed([*enumerate(self._texts)])}
        wanted = torch.tensor([first.get(text, -1) for text in truth], dtype=torch.int64)[scored]
        out = np.full(len(scored), np.nan)
        if (wanted >= 0).any():
            rivals = None
            if len(first) < len(self._texts):
                rivals = torch.zeros(len(self._texts), dtype=torch.bool)
                rivals[list(first.values())] = True
            q = for_scoring(activations, scored)
            found = ranks(self._similarity, self._concept_activations, q, wanted, rivals)
            out[scored.numpy()] = found.numpy()
        return out


def scored_units(dead: Bool[Tensor, " units"], similarity: Similarity) -> Bool[Tensor, " units"]:
    """Which units take part in the scoring: those that vary, or all where `dead` is `include`."""
    return torch.ones_like(dead) if similarity.dead == "include" else ~dead


def describe_layer(
    layer: str,
    activations: Activations,
    concept_activations: ConceptActivations,
    texts: Sequence[str],
    similarity: Similarity,
    top: int,
    truth: Sequence[str] | None = None,
    null: bool = True,
) -> pd.DataFrame:
    """One row a unit: its best concepts with their similarities, its margin, its flags, its null.

    With the truth known, also `truth_rank`: where the right concept stands among all different
    texts, from 1, tied ones in the middle of their ranks; NaN where it isn't among them or the unit
    is dead.

    `flags` is a tuple of names. Units that never vary are flagged `dead`, get no description, and
    take no part in the scoring (unless `similarity.dead` is `include`): their top images are
    arbitrary, and a marginal over units would count them. Units with fewer than `top_k` distinct
    activations are flagged `few_distinct`, those whose best two scores are closer than float32
    tells apart `tied` (a layer's only live unit is, where the marginal takes all of its score).

    `null_similarity` is the unit's best score when the images of the concept activations are
    shuffled: what chance gives with these activations, concepts and images.

    Args:
        layer: its name.
        activations: `q [images, units]`, or its running top images.
        concept_activations: of the same images.
        texts: the concepts.
        similarity: from `similarity.build`.
        top: concepts per unit.
        truth: the right concept of each unit.
        null: whether to score again with shuffled images, for `null_similarity`.

    Raises:
        DissectError: another number of right concepts than units; as `Similarity.top`.
    """
    describer = Describer(concept_activations, texts, similarity, top, null)
    describer.add(layer, activations, truth)
    return describer.tables()[0]


def shuffled(concept_activations: ConceptActivations) -> ConceptActivations:
    """The same concept activations with the images in another order, the same one every time."""
    images = concept_activations.image_embeds
    generator = torch.Generator().manual_seed(SHUFFLED_BY)
    order = torch.randperm(len(images), generator=generator).to(images.device)
    return ConceptActivations(images[order], concept_activations.text_embeds)


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
    nothing = torch.zeros(0, dtype=torch.float32)
    return Best(
        torch.zeros(0, n, dtype=torch.long),
        torch.zeros(0, n, dtype=torch.float32),
        nothing,
        nothing,
    )


def _split(best: Best, units: Sequence[int]) -> list[Best]:
    """The best concepts of each layer, of several described together."""
    tensors = (best.concepts, best.scores, best.margin, best.resolution)
    parts = (torch.split(tensor, list(units)) for tensor in tensors)
    return [Best(*part) for part in zip(*parts, strict=True)]


def _frame(columns: dict[str, Any]) -> pd.DataFrame:
    frame: pd.DataFrame = pd.DataFrame(columns)
    return frame


def _columns(
    best: Best, texts: Sequence[str], scored: Bool[np.ndarray, " units"]
) -> dict[str, Any]:
    words = np.asarray(texts, dtype=object)
    columns: dict[str, Any] = {}
    for rank in range(best.concepts.shape[1]):
        ending = "" if rank == 0 else f"_{rank + 1}"
        names = words[best.concepts[:, rank].cpu().numpy()]
        columns[f"description{ending}"] = _spread(names, scored, "")
        columns[f"similarity{ending}"] = _spread(best.scores[:, rank].cpu().numpy(), scored, np.nan)
    columns["margin"] = _spread(best.margin.cpu().numpy(), scored, np.nan)
    return columns


def _spread(
    values: Shaped[np.ndarray, " scored"], scored: Bool[np.ndarray, " units"], filler: Any
) -> Shaped[np.ndarray, " units"]:
    """Values of the scored units put in their places among all units."""
    spread = np.full(len(scored), filler, dtype=values.dtype)
    spread[scored] = values
    return spread
