"""Base of the methods that compare activation maps with concept masks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

from clipdissect.concepts import Concepts
from clipdissect.datasets.segmentation import SegmentationLabels
from clipdissect.dissection import log_skipped
from clipdissect.errors import DissectError
from clipdissect.masks import (
    ConceptMasks,
    LayerMasks,
    OverlapCounts,
    concept_masks,
    count_overlaps,
    layer_masks,
)
from clipdissect.masks.counts import concept_iou
from clipdissect.masks.crop import CROPPED, VIEWS, without_crop
from clipdissect.masks.ranges import range_masks
from clipdissect.masks.units import UnitMasks
from clipdissect.method.activation_ranges import RangeDescriber, Search
from clipdissect.method.base import Job, Method
from clipdissect.results.describe import NULL, SHUFFLED_BY, top_images_of_layer
from clipdissect.results.flags import COLUMN, DEAD, NOWHERE, SATURATED, TIED, flags_of
from clipdissect.results.manifest import run_manifest
from clipdissect.results.tables import ResultTables
from clipdissect.targets import Target
from clipdissect.utils.timing import Timers

MOST_RANGES = 20
Group = TypeVar("Group")


@dataclass(frozen=True, kw_only=True)
class MaskMatchingMethod(Method):
    """A method that thresholds activation maps and compares them with concept masks.

    Args:
        quantile: share of the probe's positions at which a unit is active.
        detector: IoU above which a unit counts as a detector of its description.
        least_images: images in which a detector must be active; a unit active in one image has
            an IoU of 1 with any concept that only this image shows.
        categories: of the concepts; None for all.
        view: `whole` resizes whole images to the input size, as the published codes do;
            `target` uses the target's crop, which shifts maps against masks.
        memory: gigabytes for thresholds and masks; see `masks.layers.layer_masks`.
        ranges: ranges of each unit's activations to describe, as `meanings`; None for none. See
            `masks.ranges.activation_ranges`; 5 is the published number.
    """

    quantile: float = 0.005
    detector: float = 0.04
    least_images: int = 2
    categories: list[str] | None = None
    view: str = "whole"
    memory: float = 2.0
    ranges: int | None = None
    needs: ClassVar[tuple[str, ...]] = ("target", "probe")

    @property
    def requires(self) -> tuple[str, ...]:
        return ("masks",)

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise DissectError(f"method.view is '{self.view}'; it can be {' or '.join(VIEWS)}")
        if not 0 < self.quantile < 1:
            raise DissectError(f"method.quantile is {self.quantile}; it must be between 0 and 1")
        if not 0 <= self.detector <= 1:
            raise DissectError(f"method.detector is {self.detector}; it must be between 0 and 1")
        if self.least_images < 1:
            raise DissectError(f"method.least_images is {self.least_images}; it must be at least 1")
        if self.ranges and not 2 <= self.ranges <= MOST_RANGES:
            raise DissectError(
                f"method.ranges is {self.ranges}; it must be 2 to {MOST_RANGES}, or null for none"
            )

    @property
    def search(self) -> Search:
        """The search for the description of a mask; for single concepts here."""
        return Search(1, 1)

    @abstractmethod
    def table(
        self, units: UnitMasks, counts: OverlapCounts, concepts: ConceptMasks, top: int
    ) -> pd.DataFrame:
        """Return a row per unit: `description, similarity, ..., margin`, and further columns."""

    def describe(self, job: Job) -> ResultTables:
        original, probe = job.require(self.name, self.needs)
        timers = Timers()
        target, notes = self._with_view(original)
        with timers.stage("levels"):
            active = layer_masks(
                target,
                target.layers,
                probe,
                job.store,
                job.settings,
                quantile=self.quantile,
                memory=self.memory,
            )
        log_skipped(active.left_out, len(active.probe))
        with timers.stage("concepts"):
            masks: SegmentationLabels = probe.masks.of_categories(self.categories)
            concepts = concept_masks(masks, active.store).without(np.array(sorted(active.skipped)))
        null = concepts.shuffled(active.images, SHUFFLED_BY) if job.null else None
        names = [probe.images[i] for i in active.images]
        descriptions, top_images = [], []
        for layer in target.layers:
            descriptions.append(self._describe_layer(layer, active, concepts, null, job, timers))
            max_activations = active.thresholds[layer].max_activation
            shown = layer, max_activations, names, job.images, layer in target.saes
            top_images.append(top_images_of_layer(*shown))
        meanings = self._meanings(active, concepts, null, timers)
        vocabulary = _vocabulary(active, concepts)
        run = self._manifest(target, active, concepts, vocabulary, job, notes)
        return ResultTables(
            pd.concat(descriptions, ignore_index=True),
            pd.concat(top_images, ignore_index=True),
            run | {"seconds": timers.seconds},
            target=target,
            thresholds={name: thresholds.values for name, thresholds in active.thresholds.items()},
            vocabulary=vocabulary,
            meanings=meanings,
        )

    def _meanings(
        self, active: LayerMasks, concepts: ConceptMasks, null: ConceptMasks | None, timers: Timers
    ) -> pd.DataFrame:
        """Return the descriptions of activation ranges; empty without `ranges`."""
        tables = [pd.DataFrame()]  # alone where there are no ranges, as of dead units
        for layer in active.thresholds if self.ranges else ():
            assert self.ranges
            describer = RangeDescriber(self.search, concepts, null)
            blocks = range_masks(active, layer, self.ranges, self.search.bytes_per_word)
            for rows in _timed(blocks, timers, "range masks"):
                with timers.stage("range scoring"):
                    table = describer.table(rows)
                table.insert(0, "layer", layer)
                tables.append(table)
        joined: pd.DataFrame = pd.concat(tables, ignore_index=True)
        return joined

    def _with_view(self, target: Target) -> tuple[Target, tuple[str, ...]]:
        whole, notes = without_crop(target.preprocess)
        if self.view == "whole":
            return target.with_preprocess(whole), notes
        return target, notes or ((CROPPED,) if whole is not target.preprocess else ())

    def _describe_layer(
        self,
        layer: str,
        active: LayerMasks,
        concepts: ConceptMasks,
        null: ConceptMasks | None,
        job: Job,
        timers: Timers,
    ) -> pd.DataFrame:
        truth = job.truth.get(layer)
        parts = []
        for units in _timed(active.masks(layer), timers, "masks"):
            with timers.stage("scoring"):
                counts = count_overlaps(units, concepts)
                table = self.table(units, counts, concepts, job.top)
                table["firing_images"] = units.images(active.layout)
                if null is not None:
                    # A unit that shares no pixel with any concept scores 0.
                    null_table = self.table(units, count_overlaps(units, null), null, 1)
                    table[NULL] = null_table["similarity"].fillna(0.0)
                numbers = np.arange(units.first, units.first + len(units))
                if truth is not None:
                    right = list(truth)[units.first : units.first + len(units)]
                    table["truth_rank"] = truth_ranks(counts, concepts, right)
            table.insert(0, "layer", layer)
            table.insert(1, "unit", numbers)
            parts.append(table)
        return self._with_flags(pd.concat(parts, ignore_index=True), active, layer)

    def _with_flags(self, table: pd.DataFrame, active: LayerMasks, layer: str) -> pd.DataFrame:
        """Add the units' flags, detectors and thresholds; clear the scores of dead units."""
        thresholds = active.thresholds[layer]
        dead = thresholds.dead.numpy()
        texts = [c for c in table if str(c).startswith("description")]
        scores = [c for c in table if str(c).startswith("similarity")]
        table.loc[dead, texts], table.loc[dead, [*scores, "margin"]] = "", np.nan
        if NULL in table:
            table.loc[dead, NULL] = np.nan
        no_overlap = (table["description"] == "").to_numpy()
        if "truth_rank" in table:
            table.loc[no_overlap, "truth_rank"] = np.nan  # no description, no rank
        masks = {
            DEAD: dead,
            NOWHERE: no_overlap,
            TIED: (table["margin"] == 0).to_numpy(),
            SATURATED: thresholds.saturated.numpy(),
        }
        table.insert(list(table).index("margin") + 1, COLUMN, flags_of(masks))
        in_enough_images = table["firing_images"] >= self.least_images
        table["detector"] = (table["similarity"] > self.detector) & in_enough_images
        table["threshold"] = thresholds.values.numpy()
        return table

    def _manifest(
        self,
        target: Target,
        active: LayerMasks,
        concepts: ConceptMasks,
        vocabulary: Concepts,
        job: Job,
        notes: tuple[str, ...],
    ) -> dict[str, Any]:
        probe = active.probe
        return run_manifest(
            target,
            probe,
            job.settings,
            images_used=len(active.images),
            skipped=active.left_out,
            notes=[*target.notes, *probe.notes, *active.notes, *notes],
            digests={**active.digests, "masks": probe.masks.digest() if probe.masks else None},
            computed=active.computed,
            fits=active.fits,
            concepts={
                "name": vocabulary.name,
                "texts": len(vocabulary),
                "digest": vocabulary.digest,
                "masks": len(concepts.concepts),
                "categories": list(concepts.categories),
            },
            method={"name": self.name, **asdict(self)},
            threshold_error={
                layer: thresholds.error for layer, thresholds in active.thresholds.items()
            },
            null={"shuffled_by": SHUFFLED_BY} if job.null else None,
        )


def _timed(groups: Iterator[Group], timers: Timers, stage: str) -> Iterator[Group]:
    """Time each `next`, because the groups are computed lazily."""
    while True:
        with timers.stage(stage):
            group = next(groups, None)
        if group is None:
            return
        yield group


def _vocabulary(active: LayerMasks, concepts: ConceptMasks) -> Concepts:
    texts = tuple(dict.fromkeys(concept.text for concept in concepts.concepts))
    return Concepts(f"masks of {active.probe.name}", texts)


def truth_ranks(counts: OverlapCounts, concepts: ConceptMasks, truth: list[str]) -> list[float]:
    """Return the rank of each unit's right text among the single concepts by IoU."""
    scores = concept_iou(counts, concepts)
    if len(truth) != len(scores):
        raise DissectError(f"there are {len(scores)} units, but {len(truth)} right labels")
    return ranks_among(scores, [concept.text for concept in concepts.concepts], truth)


def ranks_among(
    scores: Float[np.ndarray, "units concepts"], texts: Sequence[str], wanted: Sequence[str]
) -> list[float]:
    """Return the rank of each unit's wanted text by score, from 1; NaN if it isn't a concept.

    Ties get their mean rank; equal texts count once, with their best score.
    """
    names = np.array(texts, dtype=object)
    distinct = list(dict.fromkeys(texts))
    best = np.stack([scores[:, names == text].max(axis=1) for text in distinct], axis=1)
    number = {text: n for n, text in enumerate(distinct)}
    return [
        float(row[number[text]]) if text in number else float("nan")
        for row, text in zip(rankdata(-best, axis=1), wanted, strict=True)
    ]
