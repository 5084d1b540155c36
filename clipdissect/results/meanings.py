"""Several meanings of a unit: clusters of its top images, each with its own description.

A unit has several meanings if its top images form clusters whose silhouette is above that of nearly
all random sets of images, and if no two of the clusters have the same description.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from clipdissect.capture.activations import Activations, TopKActivations
from clipdissect.errors import DissectError
from clipdissect.results import flags
from clipdissect.results.clusters import LEAST, clusterings
from clipdissect.results.formulas import OR, leaf, node, written
from clipdissect.similarity.inputs import TopActivations
from clipdissect.utils.type_checks import check_range, shortened

IMAGES = 20  # top images that are clustered, for similarity functions without a number of their own
LEVEL = 0.99  # share of random sets of images whose silhouette is below the threshold
DRAWS = 1000  # random sets
MOST = 20  # meanings that may be looked for
_SEED = 0
_NUMBERS_AT_ONCE = 4_000_000  # 16 MB of float32


@dataclass(frozen=True)
class Candidates:
    """A layer's clusters that may be meanings: rows of one unit and number of clusters adjoin.

    Args:
        top: of the scored units, as they were clustered.
        strength: the top images' activations above the unit's lowest; 0 of images that don't count.
        silhouette: per scored unit, the largest of any number of clusters; -inf if there is none.
        unit: each row's scored unit.
        k: the number of clusters that the row is one of.
        quality: the silhouette of these clusters.
        members: the top images in the row's cluster.
    """

    top: TopActivations
    strength: Float[Tensor, "units n"]
    silhouette: Float[Tensor, " units"]
    unit: Int[Tensor, " rows"]
    k: Int[Tensor, " rows"]
    quality: Float[Tensor, " rows"]
    members: Bool[Tensor, "rows n"]

    def __len__(self) -> int:
        return len(self.unit)

    def as_top(self) -> TopActivations:
        """Return each row's images as a unit's top images, repeated to as many as a unit has.

        As of latents that fire on few images, scores are thus on the scale of whole units.
        """
        order = (~self.members).long().argsort(dim=1, stable=True)
        n = order.shape[1]
        ranks = torch.arange(n, device=order.device) % self.members.sum(1, keepdim=True)
        places = order.gather(1, ranks).T
        values, indices = (x[:, self.unit].gather(0, places) for x in self._top)
        return TopActivations(values, indices, self.top.images)

    def as_activations(
        self, q: Float[Tensor, "images units"], embeds: Float[Tensor, "images dims"]
    ) -> Float[Tensor, "images rows"]:
        """Return the scored units' activations without the other clusters' images, one per row.

        An image belongs to the cluster with the nearest centre. In the rows of other clusters its
        activation is at most the unit's mean, which is evidence neither for nor against a text.
        """
        parts = [q[:, self.unit]]
        if len(self):
            parts = [self._without_others(q, embeds, k) for k in sorted(set(self.k.tolist()))]
        return torch.cat(parts, 1)

    def shares(self) -> Float[Tensor, " rows"]:
        """Return each row's share of what its unit's top images activate it above its lowest."""
        strength = self.strength[self.unit]
        return (strength * self.members).sum(1) / strength.sum(1)

    @property
    def _top(self) -> tuple[Float[Tensor, "n units"], Int[Tensor, "n units"]]:
        return self.top.values, self.top.indices

    def _without_others(
        self, q: Float[Tensor, "images units"], embeds: Float[Tensor, "images dims"], k: int
    ) -> Float[Tensor, "images rows"]:
        rows = (self.k == k).nonzero()[:, 0]
        images = self.top.indices.T[self.unit[rows]]
        sums = (embeds[images] * self.members[rows, :, None]).sum(1)
        cosines = (embeds @ F.normalize(sums, dim=1).T).view(len(embeds), -1, k)
        own = torch.arange(k, device=q.device)
        is_other = (cosines.argmax(2, keepdim=True) != own).flatten(1)
        chosen = q[:, self.unit[rows]]
        mean = chosen.float().mean(0).to(chosen.dtype)
        return torch.where(is_other, chosen.minimum(mean), chosen)


def lowest_of(activations: Activations, latents: bool) -> Float[Tensor, " units"]:
    """Return each unit's activation on images that don't activate it.

    Of latents 0, else the lowest; where only top images are stored, 0 or the lowest of them.
    """
    if isinstance(activations, TopKActivations):
        lowest = activations.top.values.amin(0).float().clamp(max=0)
    else:
        lowest = activations.amin(0).float()
    return torch.zeros_like(lowest) if latents else lowest


def check_most(meanings: Any) -> None:
    """Raise a DissectError unless it is a number of meanings that may be looked for."""
    if not isinstance(meanings, int):
        raise DissectError(f"method.meanings must be a whole number; got {shortened(meanings)}")
    check_range("method.meanings", meanings, 1, MOST)


class Splitter:
    """Finds the candidates of layers on the same images, with thresholds from random images."""

    def __init__(self, embeds: Float[Tensor, "images dims"], most: int) -> None:
        self.embeds, self.most = embeds, most
        self.thresholds: dict[int, float] = {}  # by the number of images
        self._random: Tensor | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What the clusters depend on, for a run's manifest."""
        thresholds = {str(n): value for n, value in sorted(self.thresholds.items())}
        return {"most": self.most, "least_images": LEAST, "silhouette_above": thresholds}

    def split(self, top: TopActivations, lowest: Float[Tensor, " units"]) -> Candidates:
        """Cluster the top images that activate units more than the lowest activations."""
        images = top.indices.T
        strength = (top.values.T.float() - lowest[:, None]).clamp(min=0)
        counted = strength > 0
        labels, values = self._clusterings(images, counted)
        thresholds = self._thresholds_of(counted.sum(1), images.shape[1])
        is_above = values > thresholds
        unit, k, quality, members = [], [], [], []
        for number in range(2, self.most + 1):
            units = is_above[number - 2].nonzero()[:, 0]
            unit.append(units.repeat_interleave(number))
            k.append(torch.full_like(unit[-1], number))
            quality.append(values[number - 2, unit[-1]])
            own = torch.arange(number, device=units.device).repeat(len(units))
            members.append(labels[number - 2, unit[-1]] == own[:, None])
        rows = (torch.cat(parts) for parts in (unit, k, quality, members))
        return Candidates(top, strength, values.amax(0), *rows)

    def _clusterings(
        self, images: Int[Tensor, "units n"], counted: Bool[Tensor, "units n"]
    ) -> tuple[Int[Tensor, "numbers units n"], Float[Tensor, "numbers units"]]:
        step = max(1, _NUMBERS_AT_ONCE // (images.shape[1] * self.embeds.shape[1]))
        parts = []
        for start in range(0, max(1, len(images)), step):
            points = self.embeds[images[start : start + step]]
            parts.append(clusterings(points @ points.mT, counted[start : start + step], self.most))
        labels, values = zip(*parts, strict=True)
        return torch.cat(labels, 1), torch.cat(values, 1)

    def _thresholds_of(self, sizes: Int[Tensor, " units"], most: int) -> Float[Tensor, " units"]:
        for n in sorted(set(sizes.tolist())):
            if n not in self.thresholds:
                self.thresholds[n] = self._random_silhouette(n, most)
        by_size = [self.thresholds.get(n, float("nan")) for n in range(most + 1)]
        return torch.tensor(by_size, device=sizes.device)[sizes]

    def _random_silhouette(self, n: int, most: int) -> float:
        """Return the quantile `LEVEL` of the best silhouettes of `n` random images."""
        if n < 2 * LEAST:
            return float("inf")
        if self._random is None or self._random.shape[1] < most:
            self._random = _random_images(len(self.embeds), most).to(self.embeds.device)
        images = self._random[:, :n]
        _, values = self._clusterings(images, torch.ones_like(images, dtype=torch.bool))
        # The silhouette of clusters that don't count is below any other, which is at least -1.
        best = values.amax(0).clamp(min=-1)
        return float(best.quantile(LEVEL))


def _random_images(images: int, n: int) -> Int[Tensor, "draws n"]:
    generator = torch.Generator().manual_seed(_SEED)
    return torch.stack([torch.randperm(images, generator=generator)[:n] for _ in range(DRAWS)])


@dataclass(frozen=True)
class LayerMeanings:
    """A layer's descriptions and meanings.

    Args:
        descriptions: those of units with several meanings are of meaning 1, with `formula`, and
            `meanings`, their number (0 of units without a description).
        meanings: see `ResultTables.meanings`.
        of_rank: the meaning of each unit's top images by rank; 0 of images that don't count.
    """

    descriptions: pd.DataFrame
    meanings: pd.DataFrame
    of_rank: Int[np.ndarray, "units n"]


def layer_meanings(
    table: pd.DataFrame,
    scored: Bool[np.ndarray, " units"],
    candidates: Candidates,
    rows: pd.DataFrame,
    tied: Bool[np.ndarray, " rows"],
) -> LayerMeanings:
    """Choose each unit's clusters.

    Of clusters above the threshold those with the largest silhouette, of which no two have the same
    description; meanings are numbered by their share.

    Args:
        table: a layer's descriptions.
        scored: the units that the candidates are of.
        rows: of the candidates, `description, similarity, ...`, with the columns of the table.
        tied: rows whose best two scores are closer than float32 resolves.
    """
    number = np.flatnonzero(scored)
    described = rows["description"].tolist()
    picked = _picked(candidates, described)
    several = np.array([unit for unit, _ in picked], dtype=int)
    chosen = [row for _, of_unit in picked for row in of_unit]
    first = [of_unit[0] for _, of_unit in picked]
    texts = [[described[row] for row in of_unit] for _, of_unit in picked]
    counts = np.zeros(len(table), dtype=int)
    counts[number] = 1
    counts[number[several]] = [len(of_unit) for _, of_unit in picked]
    table = _with_first(table, number[several], rows.iloc[first], tied[first])
    formula = np.full(len(table), "", dtype=object)
    formula[number[several]] = [written(node(OR, *map(leaf, of_unit))) for of_unit in texts]
    table = table.assign(meanings=counts, formula=formula)
    of_rank = np.zeros((len(table), candidates.strength.shape[1]), dtype=int)
    of_rank[number] = (candidates.strength > 0).cpu().numpy()
    members = candidates.members.cpu().numpy()
    for unit, of_unit in picked:
        for meaning, row in enumerate(of_unit, 1):
            of_rank[number[unit], members[row]] = meaning
    return LayerMeanings(table, _table(table, number, candidates, rows, chosen), of_rank)


def meanings_table(layers: Mapping[str, LayerMeanings]) -> pd.DataFrame:
    """Return the meanings of all layers; empty without layers."""
    tables = [layer.meanings for layer in layers.values()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def with_meanings(top_images: pd.DataFrame, layers: Mapping[str, LayerMeanings]) -> pd.DataFrame:
    """Add `meaning` to a table of top images; NaN for images that weren't clustered."""
    parts = []
    for layer, rows in top_images.groupby("layer", sort=False):
        # A column more, 0, stands for all ranks that weren't clustered.
        known = np.pad(layers[str(layer)].of_rank, ((0, 0), (0, 1)))
        places = np.minimum(rows["rank"].to_numpy() - 1, known.shape[1] - 1)
        meaning = known[rows["unit"].to_numpy(), places]
        parts.append(rows.assign(meaning=np.where(meaning > 0, meaning, np.nan)))
    complete: pd.DataFrame = pd.concat(parts) if parts else top_images.assign(meaning=np.nan)
    return complete


def _picked(candidates: Candidates, texts: Sequence[str]) -> list[tuple[int, list[int]]]:
    """Return the units with several meanings and their rows, the largest share first."""
    unit, k, quality = (x.tolist() for x in (candidates.unit, candidates.k, candidates.quality))
    shares = candidates.shares().tolist()
    best: dict[int, tuple[float, list[int]]] = {}
    row = 0
    while row < len(unit):
        rows = list(range(row, row + k[row]))
        differ = len({texts[i] for i in rows}) == len(rows)
        if differ and quality[row] > best.get(unit[row], (-np.inf, []))[0]:
            best[unit[row]] = quality[row], sorted(rows, key=lambda i: -shares[i])
        row += k[row]
    return [(unit, best[unit][1]) for unit in sorted(best)]


def _with_first(
    table: pd.DataFrame,
    units: Int[np.ndarray, " several"],
    rows: pd.DataFrame,
    tied: Bool[np.ndarray, " several"],
) -> pd.DataFrame:
    """Replace units' descriptions by their first meanings'."""
    table = table.copy()
    for column in rows:
        values = table[column].to_numpy(copy=True)
        values[units] = rows[column].to_numpy()
        table[column] = values
    of_units = table[flags.COLUMN].tolist()
    for unit, is_tied in zip(units, tied, strict=True):
        others = tuple(flag for flag in of_units[unit] if flag != flags.TIED)
        of_units[unit] = (flags.TIED, *others) if is_tied else others
    replaced: pd.DataFrame = table.assign(**{flags.COLUMN: of_units})
    return replaced


def _table(
    table: pd.DataFrame,
    number: Int[np.ndarray, " scored"],
    candidates: Candidates,
    rows: pd.DataFrame,
    chosen: list[int],
) -> pd.DataFrame:
    """Return a row per meaning of each scored unit."""
    facts = {
        "unit": candidates.unit,
        "share": candidates.shares(),
        "images": candidates.members.sum(1),
        "silhouette": candidates.quality,
    }
    several = pd.DataFrame({name: x.cpu().numpy()[chosen] for name, x in facts.items()})
    several.insert(1, "meaning", several.groupby("unit").cumcount() + 1)
    whole = pd.DataFrame(
        {
            "unit": np.arange(len(number)),
            "meaning": 1,
            "share": 1.0,
            "images": (candidates.strength > 0).sum(1).cpu().numpy(),
            "silhouette": candidates.silhouette.cpu().numpy(),
        }
    )
    whole["silhouette"] = whole["silhouette"].mask(np.isinf(whole["silhouette"]))
    is_whole = ~whole["unit"].isin(several["unit"]).to_numpy()
    texts = [table[list(rows)].iloc[number[is_whole]], rows.iloc[chosen]]
    result = pd.concat([whole[is_whole], several], ignore_index=True)
    result = pd.concat([result, pd.concat(texts, ignore_index=True)], axis=1)
    result["unit"] = number[result["unit"]]
    result.insert(0, "layer", table["layer"].iloc[0])
    ordered: pd.DataFrame = result.sort_values(["unit", "meaning"], ignore_index=True)
    return ordered
