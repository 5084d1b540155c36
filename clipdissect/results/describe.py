"""Tables of descriptions and top images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from clipdissect.capture.activations import (
    Activations,
    Firing,
    dead_units,
    few_distinct,
    for_scoring,
    top_of,
    units_of,
    without_silent,
)
from clipdissect.errors import DissectError
from clipdissect.results.flags import COLUMN, DEAD, FEW, RARE, TIED, flags_of
from clipdissect.results.meanings import (
    IMAGES,
    Candidates,
    LayerMeanings,
    Splitter,
    layer_meanings,
    lowest_of,
)
from clipdissect.similarity import Similarity, ranks
from clipdissect.similarity.inputs import Best, ConceptActivations, TopActivations
from clipdissect.similarity.ranking import concat_layers

NULL = "null_similarity"
FIRST = "first_similarity"  # of the description, by the stage before reranking
SHUFFLED_BY = 0  # seed of the permutation of images for the null
FEW_IMAGES = 10  # on which a latent is `rare`, by functions that don't use a number of top images


@dataclass(frozen=True)
class _Layer:
    name: str
    scored: Bool[np.ndarray, " units"]
    flags: dict[str, Bool[np.ndarray, " units"]]
    truth_ranks: Float[np.ndarray, " units"] | None
    firing: Firing | None


class Describer:
    """Describes layers added one by one, so that only one layer is in memory.

    Similarities that need only top images score all layers at once in `tables`, which computes
    the concept activations and their softmax once. Layers with ground truth are scored when
    added, so that `truth_rank` and the description use the same scores. With `meanings` above 1, up
    to that many per unit are looked for, see `results.meanings`.
    """

    def __init__(
        self,
        concept_activations: ConceptActivations,
        texts: Sequence[str],
        similarity: Similarity,
        top: int,
        null: bool = True,
        meanings: int = 1,
    ) -> None:
        self._concept_activations, self._texts = concept_activations, texts
        self._similarity, self._top = similarity, top
        self._shuffled = shuffled(concept_activations) if null else None
        self._layers: list[_Layer] = []
        self._best: dict[str, Best] = {}
        self._null: dict[str, Tensor] = {}
        self._waiting: dict[str, TopActivations] = {}
        embeds = concept_activations.image_embeds
        self.splitter = Splitter(embeds, meanings) if meanings > 1 else None
        self.meanings: dict[str, LayerMeanings] = {}  # by layer, after `tables`
        # Clusters that may be meanings, by layer.
        self._clusters: dict[str, Candidates] = {}
        self._best_of_clusters: dict[str, Best] = {}
        self._null_of_clusters: dict[str, Tensor] = {}

    def add(
        self,
        layer: str,
        activations: Activations,
        truth: Sequence[str] | None = None,
        firing: Firing | None = None,
    ) -> None:
        """Score a layer's units, or prepare it; activations are moved to the embeddings' device.

        With `firing`, units are latents; images on which they are silent don't describe them.
        """
        activations = activations.to(self._concept_activations.image_embeds.device)
        units = units_of(activations)
        if truth is not None and len(truth) != units:
            raise DissectError(f"layer {layer} has {units} units, but {len(truth)} right labels")
        dead, top_k = dead_units(activations), self._similarity.images_per_unit
        scored = scored_units(dead, self._similarity)  # of latents, those that vary
        top = None if top_k is None else top_of(activations, top_k)
        shown = top  # with images on which latents are silent
        rare = torch.zeros_like(dead)
        if firing is not None:
            fires = firing.images.to(dead.device)
            images = self._similarity.images_of(len(self._concept_activations.image_embeds))
            dead, rare = fires == 0, fires < (images or FEW_IMAGES)
            # Only functions with `top_k` can leave out the images on which a rare latent is silent.
            scored &= ~(rare if images and not top_k else dead)
            top = top and without_silent(top)
        few = few_distinct(activations, top) & ~rare
        q = top.select(scored) if firing and top else for_scoring(activations, scored)
        ranks = None if truth is None else self._truth_ranks(q, truth, scored)
        flags = {DEAD: _array(dead), FEW: _array(few), RARE: _array(rare)}
        self._layers.append(_Layer(layer, _array(scored), flags, ranks, firing))
        if self.splitter is not None:
            clustered = (shown or top_of(activations, IMAGES)).select(scored)
            lowest = lowest_of(activations, firing is not None)[scored]
            self._clusters[layer] = self.splitter.split(clustered, lowest)
        if not scored.any():
            empty = _empty_best(min(self._top, len(self._texts)))
            none = torch.zeros(0, dtype=torch.float32)
            self._best[layer] = self._best_of_clusters[layer] = empty
            self._null[layer] = self._null_of_clusters[layer] = none
        elif top is None or self._similarity.needs_all or truth is not None:
            if layer in self._clusters:
                q = self._with_clusters(layer, q, top and top.select(scored))
            self._score({layer: int(scored.sum())}, q)
        else:
            self._waiting[layer] = top.select(scored)

    def tables(self) -> list[pd.DataFrame]:
        """Return a table like `describe_layer`'s per layer, in the order of `add`."""
        if self._waiting:
            clusters = [self._clusters[n].as_top() for n in self._waiting if n in self._clusters]
            together = concat_layers(list(self._waiting.values()), clusters)
            self._score(dict(zip(self._waiting, together.layers, strict=True)), together)
            self._waiting = {}
        tables = [self._table(layer, self._best[layer.name]) for layer in self._layers]
        if self.splitter is None:
            return tables
        for layer, table in zip(self._layers, tables, strict=True):
            self.meanings[layer.name] = self._meanings(layer, table)
        return [self.meanings[layer.name].descriptions for layer in self._layers]

    def _with_clusters(
        self, layer: str, q: Tensor | TopActivations, top: TopActivations | None
    ) -> Tensor | TopActivations:
        """Add the rows of a layer's clusters after its units, as the similarity takes them."""
        clusters = self._clusters[layer]
        if top is not None and not self._similarity.needs_all:
            return concat_layers([top], [clusters.as_top()])
        assert isinstance(q, Tensor)
        embeds = self._concept_activations.image_embeds
        return torch.cat([q, clusters.as_activations(q, embeds)], 1)

    def _score(self, units: dict[str, int], q: Tensor | TopActivations) -> None:
        """Score layers' units, which the rows of their clusters follow, if any."""
        best = self._similarity.top(self._concept_activations, q, self._top)
        clusters = [name for name in units if name in self._clusters]
        sizes = [*units.values(), *(len(self._clusters[name]) for name in clusters)]
        found = best.split(sizes)
        self._best |= zip(units, found, strict=False)
        self._best_of_clusters |= zip(clusters, found[len(units) :], strict=True)
        if self._shuffled is not None:
            scores = self._similarity.top(self._shuffled, q, 1).scores[:, 0]
            null = torch.split(scores, sizes)
            self._null |= zip(units, null, strict=False)
            self._null_of_clusters |= zip(clusters, null[len(units) :], strict=True)

    def _table(self, layer: _Layer, best: Best) -> pd.DataFrame:
        units, scored = len(layer.scored), layer.scored
        table: dict[str, Any] = {"layer": [layer.name] * units, "unit": np.arange(units)}
        table |= self._described(best, scored)
        tied = scatter(best.tied, scored, False)
        table[COLUMN] = flags_of({DEAD: layer.flags[DEAD], TIED: tied, **layer.flags})
        if layer.firing is not None:
            table |= firing_columns(layer.firing)
        if self._shuffled is not None:
            table[NULL] = scatter(self._null[layer.name], scored, np.nan)
        if layer.truth_ranks is not None:
            table["truth_rank"] = np.where(layer.flags[DEAD], np.nan, layer.truth_ranks)
        frame: pd.DataFrame = pd.DataFrame(table)
        return frame

    def _described(self, best: Best, scored: Bool[np.ndarray, " units"]) -> dict[str, Any]:
        """Return `description, similarity, ..., margin`."""
        texts, columns = np.asarray(self._texts, dtype=object), {}
        for rank in range(best.concepts.shape[1]):
            suffix = column_suffix(rank)
            names = texts[_array(best.concepts[:, rank])]
            columns[f"description{suffix}"] = scatter(names, scored, "")
            columns[f"similarity{suffix}"] = scatter(best.scores[:, rank], scored, np.nan)
        if best.first_scores is not None:
            columns[FIRST] = scatter(best.first_scores[:, 0], scored, np.nan)
        columns["margin"] = scatter(best.margin, scored, np.nan)
        return columns

    def _meanings(self, layer: _Layer, table: pd.DataFrame) -> LayerMeanings:
        clusters, best = self._clusters[layer.name], self._best_of_clusters[layer.name]
        rows = pd.DataFrame(self._described(best, np.ones(len(clusters), dtype=bool)))
        if self._shuffled is not None:
            rows[NULL] = _array(self._null_of_clusters[layer.name])
        return layer_meanings(table, layer.scored, clusters, rows, _array(best.tied))

    def _truth_ranks(
        self, q: Tensor | TopActivations, truth: Sequence[str], scored: Bool[Tensor, " units"]
    ) -> Float[np.ndarray, " units"]:
        """Return ranks among distinct texts; NaN for unknown texts and unscored units."""
        # Copies of a text share its embedding, so the first stands for all.
        first = {text: i for i, text in reversed([*enumerate(self._texts)])}
        wanted = torch.tensor([first.get(text, -1) for text in truth], dtype=torch.int64)[
            scored.cpu()
        ]
        result = np.full(len(scored), np.nan)
        if (wanted >= 0).any():
            rivals = None
            if len(first) < len(self._texts):
                rivals = torch.zeros(len(self._texts), dtype=torch.bool)
                rivals[list(first.values())] = True
            unit_ranks = ranks(self._similarity, self._concept_activations, q, wanted, rivals)
            result[_array(scored)] = unit_ranks.numpy()
        return result


def firing_columns(firing: Firing) -> dict[str, Any]:
    """Return `fires`, the images on which a latent fires, and `density`, the share of tokens."""
    return {"fires": _array(firing.images), "density": _array(firing.density)}


def scored_units(dead: Bool[Tensor, " units"], similarity: Similarity) -> Bool[Tensor, " units"]:
    """Return which units are scored: live ones, or all if `similarity.dead` is `include`."""
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
    """Describe one layer: a row per unit with its best concepts, margin, flags and null.

    `truth_rank`, with ground truth, counts from 1 among the distinct texts (ties averaged; NaN
    if it isn't among them or the unit is dead). Constant units are `dead` and not scored, unless
    `similarity.dead` is `include`: their top images are arbitrary. `few_distinct`:
    fewer than `top_k` distinct activations. `tied`: the best two scores differ by less than
    float32 resolves, as for a layer's only live unit where the marginal cancels its score.
    `null_similarity` is the best score with shuffled images: the chance level. Latents, those of
    layers with `firing`, are dead where they never fire, and `rare` where they fire on fewer images
    than a score needs.
    """
    describer = Describer(concept_activations, texts, similarity, top, null)
    describer.add(layer, activations, truth)
    return describer.tables()[0]


def shuffled(concept_activations: ConceptActivations) -> ConceptActivations:
    """Return the concept activations with the images in a fixed random order within groups."""
    images = concept_activations.image_embeds
    order = shuffled_order(*concept_activations.groups or (len(images),))
    return replace(concept_activations, image_embeds=images[order.to(images.device)])


def shuffled_order(*sizes: int) -> Int[Tensor, " images"]:
    """Return the order of images for the null: random within consecutive groups of these sizes."""
    generator = torch.Generator().manual_seed(SHUFFLED_BY)
    parts = torch.split(torch.arange(sum(sizes)), list(sizes))
    return torch.cat([part[torch.randperm(len(part), generator=generator)] for part in parts])


def top_images_of_layer(
    layer: str,
    activations: Activations,
    images: Sequence[str],
    count: int,
    latents: bool = False,
) -> pd.DataFrame:
    """Return `top_images_table` of the activations."""
    return top_images_table(layer, top_of(activations, count), images, count, latents)


def top_images_table(
    layer: str,
    top: TopActivations,
    images: Sequence[str],
    count: int,
    latents: bool = False,
) -> pd.DataFrame:
    """Return each unit's `count` top images: `layer, unit, rank` (from 1), `image, activation`.

    Images on which latents are silent are left out.
    """
    values, indices = top.values[:count], top.indices[:count]
    k, units = values.shape
    columns = {
        "layer": layer,
        "unit": np.repeat(np.arange(units), k),
        "rank": np.tile(np.arange(1, k + 1), units),
        "image": np.asarray(images, dtype=object)[_array(indices.T.reshape(-1))],
        "activation": _array(values.T.reshape(-1)),
    }
    frame: pd.DataFrame = pd.DataFrame(columns)
    return frame[frame["activation"] > 0].reset_index(drop=True) if latents else frame


def description_columns(
    texts: Sequence[Sequence[str]],
    scores: Sequence[Sequence[float]],
    top: int,
    missing_score: float = np.nan,
) -> dict[str, list[Any]]:
    """Return `description, similarity, ..., margin` of each unit's ranked texts."""
    columns: dict[str, list[Any]] = {}
    for rank in range(top):
        suffix = column_suffix(rank)
        columns[f"description{suffix}"] = [t[rank] if len(t) > rank else "" for t in texts]
        columns[f"similarity{suffix}"] = [s[rank] if len(s) > rank else np.nan for s in scores]
    columns["margin"] = [
        s[0] - (s[1] if len(s) > 1 else missing_score) if s else np.nan for s in scores
    ]
    return columns


def column_suffix(rank: int) -> str:
    return "" if rank == 0 else f"_{rank + 1}"


def _empty_best(concepts: int) -> Best:
    none = torch.zeros(0, dtype=torch.float32)
    return Best(none.new_zeros(0, concepts).long(), none.new_zeros(0, concepts), none, none)


def _array(values: Tensor) -> Shaped[np.ndarray, "..."]:
    return values.cpu().numpy()


def scatter(
    values: Tensor | Shaped[np.ndarray, " scored"],
    scored: Bool[np.ndarray, " units"],
    fill_value: Any,
) -> Shaped[np.ndarray, " units"]:
    """Return the values where `scored`, and the fill value elsewhere."""
    array = _array(values) if isinstance(values, Tensor) else values
    result = np.full(len(scored), fill_value, dtype=array.dtype)
    result[scored] = array
    return result
