"""What the methods share that compare where units fire with where concepts are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

from clipdissect.concepts import Concepts
from clipdissect.datasets.segmentation import SegmentationLabels
from clipdissect.dissection import warn_of_skipped
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
from clipdissect.masks.units import UnitMasks
from clipdissect.method.base import Job, Method
from clipdissect.results.describe import NULL, SHUFFLED_BY, top_images_of_layer
from clipdissect.results.flags import COLUMN, DEAD, NOWHERE, SATURATED, TIED, flags_of
from clipdissect.results.provenance import git_state, machine, versions
from clipdissect.results.result import Result
from clipdissect.targets import Target
from clipdissect.utils.timing import Timers


@dataclass(frozen=True, kw_only=True)
class MaskMatchingMethod(Method):
    """A method that thresholds units and compares their masks with those of concepts.

    Args:
        quantile: share of all positions of the probe at which a unit fires.
        detector: IoU above which a unit counts as a detector of its description.
        least_images: images in which a detector fires at least: a unit that fires in one image is
            at an IoU of 1 with whatever that image alone shows.
        categories: of the concepts; all where None.
        view: `whole` shows the network whole images, squeezed to its input size, as the published
            codes do; `target` leaves the target's own crop, which shifts maps against masks.
        memory: gigabytes for thresholds and masks; see `masks.layers.layer_masks`.

    Raises:
        DissectError: a value that isn't allowed.
    """

    quantile: float = 0.005
    detector: float = 0.04
    least_images: int = 2
    categories: list[str] | None = None
    view: str = "whole"
    memory: float = 2.0
    needs: ClassVar[tuple[str, ...]] = ("target", "probe")

    def __post_init__(self) -> None:
        """Check what doesn't depend on the probe."""
        if self.view not in VIEWS:
            raise DissectError(f"method.view is '{self.view}'; it can be {' or '.join(VIEWS)}")
        if not 0 < self.quantile < 1:
            raise DissectError(f"method.quantile is {self.quantile}; it must be between 0 and 1")
        if not 0 <= self.detector <= 1:
            raise DissectError(f"method.detector is {self.detector}; it must be between 0 and 1")
        if self.least_images < 1:
            raise DissectError(f"method.least_images is {self.least_images}; it must be at least 1")

    @abstractmethod
    def table(
        self, units: UnitMasks, counts: OverlapCounts, concepts: ConceptMasks, top: int
    ) -> pd.DataFrame:
        """One row a unit: `description, similarity, description_2, ..., margin`, and its own.

        Args:
            units: where they fire.
            counts: what they share with each concept.
            concepts: where these are.
            top: descriptions a unit.
        """

    def describe(self, job: Job) -> Result:
        """The best concepts or formulas of every unit of the target's layers.

        Raises:
            DissectError: see `masks.layers.layer_masks` and `masks.concepts.concept_masks`.
        """
        parts = job.parts(self)
        stages = Timers()
        target, notes = self._seen(parts["target"])
        with stages.stage("levels"):
            fires = layer_masks(target, target.layers, parts["probe"], job.store, job.settings,
                          quantile=self.quantile, memory=self.memory)  # fmt: skip
        warn_of_skipped(fires.left_out, len(fires.probe))
        with stages.stage("concepts"):
            masks: SegmentationLabels = parts["probe"].masks.of_categories(self.categories)
            concepts = concept_masks(masks, fires.store).without(np.array(sorted(fires.skipped)))
        null = concepts.shuffled(fires.images, SHUFFLED_BY) if job.null else None
        described, shown = [], []
        for layer in target.layers:
            described.append(self._layer(layer, fires, concepts, null, job, stages))
            names = [parts["probe"].images[i] for i in fires.images]
            shown.append(
                top_images_of_layer(
                    layer, fires.thresholds[layer].max_activation, names, job.images
                )
            )
        run = self._run(target, fires, concepts, job, notes) | {"seconds": stages.seconds}
        return Result(
            pd.concat(described, ignore_index=True), pd.concat(shown, ignore_index=True), run,
            target=target, thresholds={name: own.values for name, own in fires.thresholds.items()},
            vocabulary=_vocabulary(fires, concepts),
        )  # fmt: skip

    def _seen(self, target: Target) -> tuple[Target, tuple[str, ...]]:
        """The target with the preprocessing of `view`, and notes on it."""
        whole, notes = without_crop(target.preprocess)
        if self.view == "whole":
            return replace(target, preprocess=whole), notes
        return target, notes or ((CROPPED,) if whole is not target.preprocess else ())

    def _layer(
        self, layer: str, fires: LayerMasks, concepts: ConceptMasks, null: ConceptMasks | None,
        job: Job, stages: Timers,
    ) -> pd.DataFrame:  # fmt: skip
        groups = fires.masks(layer)
        parts = []
        while True:
            with stages.stage("masks"):  # a group is computed or read when it is asked for
                units = next(groups, None)
            if units is None:
                break
            with stages.stage("scoring"):
                counts = count_overlaps(units, concepts)
                table = self.table(units, counts, concepts, job.top)
                table["firing_images"] = units.images(fires.layout)
                if null is not None:
                    table[NULL] = self._null(units, null)
                right = job.truth.get(layer)
                if right is not None:
                    own = list(right)[units.first : units.first + len(units)]
                    table["truth_rank"] = truth_ranks(counts, concepts, own)
            table.insert(0, "layer", layer)
            table.insert(1, "unit", np.arange(units.first, units.first + len(units)))
            parts.append(table)
        found: pd.DataFrame = pd.concat(parts, ignore_index=True)
        return self._flagged(found, fires, layer)

    def _null(self, units: UnitMasks, shuffled: ConceptMasks) -> pd.Series[float]:
        """Each unit's best score with the masks of other images; 0 where it shares no pixel."""
        return self.table(units, count_overlaps(units, shuffled), shuffled, 1)["similarity"].fillna(
            0.0
        )

    def _flagged(self, table: pd.DataFrame, fires: LayerMasks, layer: str) -> pd.DataFrame:
        """With `flags`, the unit's threshold, and whether it is a detector."""
        thresholds = fires.thresholds[layer]
        dead = thresholds.dead.numpy()
        texts = [c for c in table if str(c).startswith("description")]
        scores = [c for c in table if str(c).startswith("similarity")]
        table.loc[dead, texts], table.loc[dead, [*scores, "margin"]] = "", np.nan
        if NULL in table:
            table.loc[dead, NULL] = np.nan
        nowhere = (table["description"] == "").to_numpy()
        if "truth_rank" in table:
            table.loc[nowhere, "truth_rank"] = np.nan  # no description, no rank
        tied = (table["margin"] == 0).to_numpy()
        flags = {DEAD: dead, NOWHERE: nowhere, TIED: tied, SATURATED: thresholds.saturated.numpy()}
        table.insert(list(table).index("margin") + 1, COLUMN, flags_of(flags))
        often = table["firing_images"] >= self.least_images
        table["detector"] = (table["similarity"] > self.detector) & often
        table["threshold"] = thresholds.values.numpy()
        return table

    def _run(
        self, target: Target, fires: LayerMasks, concepts: ConceptMasks, job: Job,
        notes: tuple[str, ...],
    ) -> dict[str, Any]:  # fmt: skip
        probe, own = fires.probe, _vocabulary(fires, concepts)
        return {
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "versions": versions(), "machine": machine(),
            "git": git_state(Path(__file__).parents[2]),
            "target": target.facts,
            "probe": {"name": probe.name, "images": len(probe), "used": len(fires.images),
                      "skipped": fires.left_out},
            "concepts": {"name": own.name, "texts": len(own), "digest": own.digest,
                         "masks": len(concepts.concepts), "categories": list(concepts.categories)},
            "method": {"name": self.name, **asdict(self)},
            "threshold_error": {layer: own.error for layer, own in fires.thresholds.items()},
            "null": {"shuffled_by": SHUFFLED_BY} if job.null else None,
            "precision": job.settings.numeric,
            "notes": [*target.notes, *probe.notes, *fires.notes, *notes],
            "digests": {**fires.digests, "masks": probe.masks.digest() if probe.masks else None},
            "computed": fires.computed,
        }  # fmt: skip


def _vocabulary(fires: LayerMasks, concepts: ConceptMasks) -> Concepts:
    """The texts of the masks; formulas are made of them."""
    texts = tuple(dict.fromkeys(concept.text for concept in concepts.concepts))
    return Concepts(f"masks of {fires.probe.name}", texts)


def truth_ranks(counts: OverlapCounts, concepts: ConceptMasks, truth: list[str]) -> list[float]:
    """Where the right text stands among the single concepts by IoU, from 1; NaN where it isn't.

    Texts with equal IoU share the middle of their ranks.

    Args:
        counts: of the units.
        concepts: the concepts; several with one text are one, with the best one's IoU.
        truth: each unit's right text.

    Raises:
        DissectError: another number of texts than units.
    """
    scores = concept_iou(counts, concepts)
    if len(truth) != len(scores):
        raise DissectError(f"there are {len(scores)} units, but {len(truth)} right labels")
    return ranks_among(scores, [concept.text for concept in concepts.concepts], truth)


def ranks_among(
    scores: Float[np.ndarray, "units concepts"], texts: Sequence[str], wanted: Sequence[str]
) -> list[float]:
    """The rank of each unit's wanted text by score, from 1; NaN where there is no such text.

    Args:
        scores: larger is better.
        texts: of the concepts; those with one text count once, with their best score.
        wanted: a text for each unit.
    """
    names = np.array(texts, dtype=object)
    distinct = list(dict.fromkeys(texts))
    best = np.stack([scores[:, names == text].max(axis=1) for text in distinct], axis=1)
    number = {text: n for n, text in enumerate(distinct)}
    return [
        float(row[number[text]]) if text in number else float("nan")
        for row, text in zip(rankdata(-best, axis=1), wanted, strict=True)
    ]


def ranked(
    texts: list[list[str]], scores: list[list[float]], top: int
) -> dict[str, list[str] | list[float]]:
    """Columns `description, similarity, description_2, ..., margin` of each unit's best, in order.

    Args:
        texts, scores: of each unit, best first; there may be few or none.
        top: descriptions a unit.
    """
    columns: dict[str, list[str] | list[float]] = {}
    for rank in range(top):
        ending = "" if rank == 0 else f"_{rank + 1}"
        columns[f"description{ending}"] = [t[rank] if len(t) > rank else "" for t in texts]
        columns[f"similarity{ending}"] = [
            s[rank] if len(s) > rank else float("nan") for s in scores
        ]
    columns["margin"] = [s[0] - (s[1] if len(s) > 1 else 0.0) if s else np.nan for s in scores]
    return columns
