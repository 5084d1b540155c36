"""INVERT: formulas of image labels that rank a unit's images best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clipdissect.capture.activations import Activations, Firing, dead_units
from clipdissect.capture.capture import check_layers
from clipdissect.capture.features import CapturedFeatures
from clipdissect.dissection import check_counts, log_skipped
from clipdissect.errors import DissectError
from clipdissect.method.auroc_search import AurocSearch, Beam, centred_ranks
from clipdissect.method.base import Job
from clipdissect.method.image_concepts import (
    SOURCES,
    ImageConcepts,
    ImageConceptsMethod,
    image_concepts,
)
from clipdissect.method.masked import ranks_among
from clipdissect.results import formulas
from clipdissect.results.describe import (
    FEW_IMAGES,
    NULL,
    SHUFFLED_BY,
    description_columns,
    firing_columns,
    scatter,
    shuffled_order,
    top_images_of_layer,
)
from clipdissect.results.flags import COLUMN, DEAD, NOWHERE, RARE, TIED, flags_of
from clipdissect.results.histograms import histograms
from clipdissect.results.manifest import run_manifest
from clipdissect.results.tables import ResultTables
from clipdissect.utils.fingerprint import hash_elements
from clipdissect.utils.timing import Timers
from clipdissect.utils.type_checks import check_choice

LONGEST, WIDEST = 10, 100


@dataclass(frozen=True, kw_only=True)
class Invert(ImageConceptsMethod):
    """The formula of image labels with the largest area under the ROC curve, by beam search.

    The area is the share of pairs of an image that shows the formula and one that doesn't in
    which the unit is more active on the first; ties count half. Formulas are
    `((c1 op c2) op c3) ...`, with `op` AND or OR, distinct concepts, and any of them negated.

    Extra columns: `formula` (a JSON tree), `length`, `label_1` and `auroc_1` of the best single
    concept, `fraction` of the images that show the formula, and `p_value`.

    Args:
        source: of the labels: `labels` (the probe's classes or masks), `hypernyms` (classes and
            their WordNet hypernyms), or `encoder` (thresholded similarities of the concepts).
        length: largest number of concepts in a formula.
        beam: beam width, in formulas.
        min_images: least number of images that show a formula, and that show or don't show a
            concept in it; a formula that only a unit's top image shows has an area of 1.
        min_fraction, max_fraction: least and largest share of the images that show a formula.
        limit_search: join only the concepts whose own area is farthest from 1/2; None for all.

    Source: Bykov et al., "Labeling Neural Representations with Inverse Recognition", NeurIPS 2023.
    """

    source: str = "labels"
    length: int = 3
    beam: int = 5
    min_images: int = 10
    min_fraction: float = 0.0
    max_fraction: float = 0.5
    limit_search: int | None = None
    name: ClassVar[str] = "invert"

    def __post_init__(self) -> None:
        check_choice("method.source", self.source, SOURCES)
        for name, largest in (("length", LONGEST), ("beam", WIDEST)):
            value = getattr(self, name)
            if not 1 <= value <= largest:
                raise DissectError(f"method.{name} is {value}; it must be 1 to {largest}")
        if not 0 <= self.min_fraction <= self.max_fraction <= 1:
            raise DissectError(
                f"method.min_fraction is {self.min_fraction}, method.max_fraction "
                f"{self.max_fraction}; they must be from 0 to 1, the first not above the second"
            )
        for name, number in (("min_images", self.min_images), ("limit_search", self.limit_search)):
            if number is not None and number < 1:
                raise DissectError(f"method.{name} is {number}; it must be at least 1")

    def describe(self, job: Job) -> ResultTables:
        probe = job.require(self.name, self.needs)[1]
        self.check(job)
        timers = Timers()
        with timers.stage("images"):
            captured = self.capture(job)
        log_skipped(captured.skipped, len(probe))
        with timers.stage("concepts"):
            concepts = image_concepts(self.source, job, captured)
            search = self._search(concepts, job.settings.scoring_device)
        tables, top_images, counts = [], [], {}
        for layer, q in captured.activations.items():
            firing = captured.firing.get(layer)
            with timers.stage("scoring"):
                tables.append(self._table(layer, q, firing, concepts, search, job))
            shown = layer, q, captured.images, job.images, firing is not None
            top_images.append(top_images_of_layer(*shown))
            counts[layer] = histograms(q)
        run = self._manifest(job, captured, concepts)
        run["seconds"], run["seconds_of_images"] = timers.seconds, captured.seconds
        table, images = (pd.concat(part, ignore_index=True) for part in (tables, top_images))
        return ResultTables(table, images, run, counts, vocabulary=concepts.vocabulary(probe.name))

    def check(self, job: Job) -> None:
        (target,) = job.require(self.name, ("target",))
        check_counts(job)
        check_layers(target, target.layers)
        for layer in target.layers:
            if job.settings.keeps_top_k(layer in target.saes):
                raise DissectError(
                    f"method invert ranks all images by activation, and of layer {layer} only the "
                    f"top images are stored: set keep=full (capture.keep=full)"
                )

    def _search(self, concepts: ImageConcepts, device: str) -> AurocSearch:
        """Return the search over the images' concepts; raise a DissectError if none is usable."""
        shown = concepts.shown.T.contiguous().to(device)
        images = shown.shape[1]
        # Multiples of 1/images that rounding put beside a fraction are still within it.
        smallest = max(self.min_images, math.ceil(self.min_fraction * images - 1e-6))
        largest = min(images - 1, math.floor(self.max_fraction * images + 1e-6))
        sizes = smallest, largest
        options = self.length, self.beam, *sizes, self.min_images, self.limit_search
        search = AurocSearch(shown, *options)
        if not search.can_start:
            raise DissectError(
                f"none of the {len(shown)} concepts, or its negation, is shown by {smallest} to "
                f"{largest} of the {images} images: use more images, lower method.min_images "
                f"({self.min_images}) or change method.min_fraction and method.max_fraction"
            )
        return search

    def _table(
        self,
        layer: str,
        q: Activations,
        firing: Firing | None,
        concepts: ImageConcepts,
        search: AurocSearch,
        job: Job,
    ) -> pd.DataFrame:
        """Return a row per unit of a layer."""
        assert isinstance(q, Tensor)  # `check` refuses top-k images
        silent = firing.images == 0 if firing else torch.zeros(q.shape[1], dtype=torch.bool)
        dead = (dead_units(q).cpu() | silent).numpy()
        ranks = centred_ranks(q[:, torch.from_numpy(~dead)].to(search.shown.device))
        beams = _scattered(search.search(ranks), dead)
        columns: dict[str, Any] = {"layer": layer, "unit": np.arange(len(dead))}
        names = concepts.names
        trees = [[scored.formula.tree(names) for scored in beam] for beam in beams]
        texts = [[formulas.to_text(tree) for tree in of_unit] for of_unit in trees]
        scores = [[scored.auroc for scored in beam] for beam in beams]
        columns |= description_columns(texts, scores, min(job.top, self.beam))
        columns[COLUMN] = _flags(dead, beams, columns["margin"], firing)
        columns |= firing_columns(firing) if firing else {}
        if job.null:
            null = search.search(ranks[:, shuffled_order(ranks.shape[1])])
            columns[NULL] = [b[0].auroc if b else np.nan for b in _scattered(null, dead)]
        areas = search.areas(ranks).cpu()
        if layer in job.truth:
            columns["truth_rank"] = _truth_ranks(layer, areas, names, job.truth[layer], dead)
        columns[formulas.COLUMN] = [formulas.written(t[0]) if t else "" for t in trees]
        columns["length"] = [len(b[0].formula) if b else 0 for b in beams]
        single, area = _best_single(areas, search.in_range(search.sizes).cpu(), names)
        columns["label_1"] = scatter(single, ~dead, "")
        columns["auroc_1"] = scatter(area, ~dead, np.nan)
        columns["fraction"] = [b[0].size / ranks.shape[1] if b else np.nan for b in beams]
        columns["p_value"] = p_values(beams, _spread(ranks, dead), ranks.shape[1])
        table: pd.DataFrame = pd.DataFrame(columns)
        return table

    def _manifest(
        self, job: Job, captured: CapturedFeatures, concepts: ImageConcepts
    ) -> dict[str, Any]:
        target, probe, *_ = job.require(self.name, self.needs)
        vocabulary = concepts.vocabulary(probe.name)
        encoder = self.encoder_of(job)
        return run_manifest(
            target,
            probe,
            job.settings,
            images_used=len(captured.images),
            skipped=captured.skipped,
            notes=[
                *target.notes,
                *(encoder.notes if encoder else ()),
                *probe.notes,
                *captured.notes,
                *concepts.notes,
            ],
            digests={
                **captured.digests,
                "concepts": vocabulary.digest,
                "labels": hash_elements(concepts.shown),
            },
            computed=captured.computed,
            fits=captured.fits,
            concepts={"name": vocabulary.name, "texts": len(vocabulary), **concepts.facts},
            **({"encoder": encoder.name} if encoder else {}),
            method={"name": self.name, **asdict(self)},
            summary={"kind": job.settings.summary.kind, "layout": job.settings.summary.layout},
            readings={
                layer: {"rule": reading.describe(), **reading.facts}
                for layer, reading in captured.readings.items()
            },
            null={"shuffled_by": SHUFFLED_BY} if job.null else None,
        )


def p_values(
    beams: Sequence[Beam], spreads: Float[np.ndarray, " units"], images: int
) -> list[float]:
    """Return the two-sided p-values of Mann-Whitney's U for each unit's best formula.

    By the normal approximation, corrected for ties and continuity. They don't account for the
    number of formulas searched. `spreads` are the sums of squared centred ranks.
    """
    values = []
    for beam, spread in zip(beams, spreads.tolist(), strict=True):
        if not beam:
            values.append(float("nan"))
            continue
        n, rank_sum = beam[0].size, beam[0].rank_sum
        variance = n * (images - n) * spread / (images * (images - 1))
        z = max(0.0, (abs(rank_sum) - 1) / math.sqrt(variance))
        values.append(math.erfc(z / math.sqrt(2)))
    return values


def _spread(
    ranks: Int[Tensor, "live images"], dead: Bool[np.ndarray, " units"]
) -> Float[np.ndarray, " units"]:
    return scatter(ranks.double().square().sum(1), ~dead, np.nan)


def _scattered(beams: Sequence[Beam], dead: Bool[np.ndarray, " units"]) -> list[Beam]:
    """Return a beam per unit from those of the units that aren't dead."""
    live = iter(beams)
    return [[] if is_dead else next(live) for is_dead in dead]


def _flags(
    dead: Bool[np.ndarray, " units"],
    beams: Sequence[Beam],
    margin: Sequence[float],
    firing: Firing | None,
) -> list[tuple[str, ...]]:
    rare = np.zeros_like(dead) if firing is None else (firing.images < FEW_IMAGES).numpy()
    nowhere = np.array([not beam for beam in beams])
    return flags_of({DEAD: dead, NOWHERE: nowhere, TIED: np.equal(margin, 0), RARE: rare})


def _best_single(
    areas: Float[Tensor, "units concepts"], usable: Bool[Tensor, " concepts"], names: Sequence[str]
) -> tuple[Any, Float[np.ndarray, " units"]]:
    """Return each unit's best concept and its area; none if no concept has a usable size."""
    if not usable.any():
        return np.full(len(areas), "", dtype=object), np.full(len(areas), np.nan)
    best = areas.masked_fill(~usable, -torch.inf).max(1)
    return np.array(names, dtype=object)[best.indices.numpy()], best.values.numpy()


def _truth_ranks(
    layer: str,
    areas: Float[Tensor, "live concepts"],
    names: Sequence[str],
    truth: Sequence[str],
    dead: Bool[np.ndarray, " units"],
) -> Float[np.ndarray, " units"]:
    """Return the ranks of the units' right concepts among all single concepts, of any size."""
    if len(truth) != len(dead):
        raise DissectError(f"layer {layer} has {len(dead)} units, but {len(truth)} right labels")
    wanted = [text for text, is_dead in zip(truth, dead, strict=True) if not is_dead]
    ranks = ranks_among(areas.nan_to_num(-1.0).numpy(), names, wanted)
    return scatter(np.array(ranks, dtype=float), ~dead, np.nan)
