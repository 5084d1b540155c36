"""Linear Explanations: weighted sums of concepts that predict units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.capture.activations import Firing, dead_units
from clipdissect.capture.features import CapturedFeatures
from clipdissect.dissection import check_counts, embed_concepts, log_skipped, vectors_of
from clipdissect.errors import DissectError
from clipdissect.method.base import Job
from clipdissect.method.image_concepts import (
    ImageConcepts,
    ImageConceptsMethod,
    image_concepts,
    needs_of,
)
from clipdissect.method.linear_sums.elastic_net import Penalty
from clipdissect.method.linear_sums.fit import FittedSums, SumFitter
from clipdissect.method.linear_sums.greedy import NONE, Search
from clipdissect.method.linear_sums.moments import (
    LEAST_MEAN,
    TOP_IMAGES,
    Rows,
    best_correlations,
    usable,
)
from clipdissect.results import formulas
from clipdissect.results.describe import (
    FEW_IMAGES,
    NULL,
    SHUFFLED_BY,
    description_columns,
    firing_columns,
    shuffled_order,
    top_images_of_layer,
)
from clipdissect.results.flags import COLUMN, DEAD, FEW, RARE, flags_of
from clipdissect.results.histograms import histograms
from clipdissect.results.layer_summaries import LayerSummary, summarise
from clipdissect.results.manifest import run_manifest
from clipdissect.results.tables import ResultTables
from clipdissect.results.vectors import UnitVectors
from clipdissect.utils.distributed import all_cores
from clipdissect.utils.timing import Timers
from clipdissect.utils.type_checks import check_range

LEAST_IMAGES = 3  # of each part
NEGLIGIBLE = 1e-4  # violation of the elastic net's optimality, in correlations
FEW_VALIDATION = 200  # below, a correlation by chance often exceeds `tolerance`


@dataclass(frozen=True, kw_only=True)
class Linear(ImageConceptsMethod):
    """Weighted sums of concepts that predict a unit's activations, as in Linear Explanations.

    An elastic net on the training images proposes concepts; a greedy search then adds, one by one,
    the concept that most improves the validation correlation of a least-squares refit. Values of
    concepts are 0 to 1, see `image_concepts`; concepts that the images don't show are left out.

    Extra columns: `formula` (the sum with its bias, on the scale of the activations), `length`,
    and `label_1` and `correlation_1` of the concept chosen first, alone.

    Args:
        source: of the concepts' values: `encoder`, `labels` or `hypernyms`.
        length: most concepts in a sum.
        tolerance: gain in validation correlation that a further concept needs.
        width: candidates per step.
        lam, alpha: the elastic net's penalty, `lam * (alpha * |w|_1 + (1 - alpha) / 2 * |w|^2)`,
            of standardised concepts and units.
        validation: share of the images that the search is validated on.
        most: concepts in the elastic net: of more, those with the largest correlation with any
            unit.
        seed: of the split.

    Source: Oikarinen & Weng, "Linear Explanations for Individual Neurons", ICML 2024, Sec. 3.
    Least squares are solved exactly, and the elastic net by coordinate descent.
    """

    source: str = "encoder"
    length: int = 10
    tolerance: float = 0.02
    width: int = 10
    lam: float = 0.05
    alpha: float = 0.99
    validation: float = 0.125
    most: int = 4000
    seed: int = 0
    name: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        needs_of(self.source)
        for name in ("length", "width", "most"):
            if getattr(self, name) < 1:
                raise DissectError(f"method.{name} must be at least 1; got {getattr(self, name)}")
        for name, most in (("lam", None), ("tolerance", None), ("alpha", 1), ("validation", 1)):
            check_range(f"method.{name}", getattr(self, name), 0, most)
        check_range("method.seed", self.seed, 0, 2**63 - 1)  # torch's generators take no more

    def describe(self, job: Job) -> ResultTables:
        target, probe = job.require(self.name, self.needs)[:2]
        self.check(job)
        timers = Timers()
        with timers.stage("images"):
            captured = self.capture(job)
        log_skipped(captured.skipped, len(probe))
        with timers.stage("concepts"), all_cores(job.team):
            concepts = image_concepts(self.source, job, captured)
            split = self._split(len(captured.images), concepts.values.device)
            kept, notes = self._kept(concepts, captured, split)
            fitter = self._fitter(kept, split)
        tables, summaries = [], []
        for layer in target.layers:
            q = _all_activations(captured, layer, kept.values.device)
            with timers.stage("sums"), all_cores(job.team):
                fitted = fitter.fit(q)
                table = _table(layer, q, fitted, kept.names, captured.firing.get(layer))
                if job.null:
                    table[NULL] = (
                        fitter.fit(q, shuffled_order(len(q)).to(q.device)).correlation.cpu().numpy()
                    )
                    table.loc[table["description"] == "", NULL] = np.nan
            notes += _not_converged(layer, fitted)
            tables.append(table)
            with timers.stage("summaries"):
                summaries.append(self._summary(layer, q, captured, job))
        parts = tables, [s.top_images for s in summaries], [s.units for s in summaries]
        descriptions, top_images, units = (pd.concat(part, ignore_index=True) for part in parts)
        run = self._manifest(job, captured, kept, split, notes)
        run["seconds"], run["seconds_of_images"] = timers.seconds, captured.seconds
        by_layer = zip(target.layers, (s.histograms for s in summaries), strict=True)
        vocabulary = kept.vocabulary(probe.name)
        return ResultTables(
            descriptions,
            top_images,
            run,
            dict(by_layer),
            vocabulary=vocabulary,
            unit_metrics=units,
            vectors=self._vectors(job, captured, summaries, top_images),
        )

    def check(self, job: Job) -> None:
        _check_kept(job)
        check_counts(job)

    def _split(self, images: int, device: torch.device) -> tuple[Rows, Rows]:
        """Return the rows of training and of validation images."""
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(images, generator=generator).to(device)
        count = round(self.validation * images)
        if min(count, images - count) < LEAST_IMAGES:
            raise DissectError(
                f"method.validation is {self.validation}, which splits {images} images into "
                f"{images - count} and {count}, but each part needs {LEAST_IMAGES}: add images"
            )
        return order[count:].sort().values, order[:count].sort().values

    def _kept(
        self, concepts: ImageConcepts, captured: CapturedFeatures, split: tuple[Rows, Rows]
    ) -> tuple[ImageConcepts, list[str]]:
        """Return the concepts that the sums are made of, and notes on the others."""
        train, validation = split
        notes = []
        if len(validation) < FEW_VALIDATION:
            notes.append(
                f"sums are validated on {len(validation)} images only, where unrelated numbers "
                f"correlate by about {len(validation) ** -0.5:.2f}"
            )
        numbers = usable(concepts.values, train).nonzero()[:, 0]
        if not len(numbers):
            raise DissectError(
                f"none of the {len(concepts.names)} concepts is shown by the images: the mean of "
                f"its {TOP_IMAGES} largest values is less than {LEAST_MEAN}: add images, or set "
                "other concepts"
            )
        if len(numbers) > self.most:
            notes.append(
                f"{len(numbers) - self.most} of {len(numbers)} concepts with the smallest "
                "correlations are left out of the elastic net (method.most)"
            )
            numbers = self._screened(concepts, captured, train, numbers)
        names = tuple(concepts.names[n] for n in numbers.tolist())
        return replace(concepts, names=names, values=concepts.values[:, numbers]), notes

    def _screened(
        self,
        concepts: ImageConcepts,
        captured: CapturedFeatures,
        train: Rows,
        numbers: Int[Tensor, " usable"],
    ) -> Int[Tensor, " most"]:
        values = concepts.values[:, numbers]
        layers = (
            _all_activations(captured, layer, values.device) for layer in captured.activations
        )
        best = torch.stack([best_correlations(values, q, train) for q in layers]).amax(0)
        return numbers[best.topk(self.most).indices.sort().values]

    def _fitter(self, concepts: ImageConcepts, split: tuple[Rows, Rows]) -> SumFitter:
        penalty = Penalty(self.lam, self.alpha)
        search = Search(self.length, self.width, self.tolerance)
        return SumFitter(concepts.values, *split, penalty, search)

    def _summary(self, layer: str, q: Tensor, captured: CapturedFeatures, job: Job) -> LayerSummary:
        """Return top images, histograms and, if the images are embedded, numbers of the units."""
        if self.encoder_of(job) is not None:
            embeds = captured.image_embeds.to(q.device)
            return summarise(layer, q, captured, embeds, job.images, job.settings.numeric)
        shown = captured.images, job.images, layer in captured.firing
        return LayerSummary(top_images_of_layer(layer, q, *shown), histograms(q), pd.DataFrame())

    def _vectors(
        self,
        job: Job,
        captured: CapturedFeatures,
        summaries: Sequence[LayerSummary],
        top_images: pd.DataFrame,
    ) -> UnitVectors | None:
        encoder = self.encoder_of(job)
        if encoder is None or job.concepts is None:
            return None
        texts = embed_concepts(encoder, job.concepts, job.store, job.settings)
        (target,) = job.require(self.name, ("target",))
        by_layer = {n: s.vectors for n, s in zip(target.layers, summaries, strict=True)}
        return vectors_of(job, captured, by_layer, top_images, texts)

    def _manifest(
        self,
        job: Job,
        captured: CapturedFeatures,
        concepts: ImageConcepts,
        split: tuple[Rows, Rows],
        notes: Sequence[str],
    ) -> dict[str, Any]:
        target, probe = job.require(self.name, self.needs)[:2]
        encoder = self.encoder_of(job)
        of_encoder = () if encoder is None else encoder.notes
        given = job.concepts if encoder is not None else None
        return run_manifest(
            target,
            probe,
            job.settings,
            images_used=len(captured.images),
            skipped=captured.skipped,
            notes=[
                *target.notes,
                *of_encoder,
                *probe.notes,
                *captured.notes,
                *concepts.notes,
                *notes,
            ],
            digests={**captured.digests, **({"concepts": given.digest} if given else {})},
            computed=captured.computed,
            fits=captured.fits,
            method={"name": self.name, **asdict(self)},
            concepts={
                "name": given.name if given else concepts.vocabulary(probe.name).name,
                "texts": len(concepts.names),
                **concepts.facts,
            },
            **({"encoder": encoder.name} if encoder is not None else {}),
            split={"train": len(split[0]), "validation": len(split[1])},
            null={"shuffled_by": SHUFFLED_BY} if job.null else None,
        )


def _check_kept(job: Job) -> None:
    (target,) = job.require("linear", ("target",))
    for layer in target.layers:
        if job.settings.keeps_top_k(layer in target.saes):
            raise DissectError(
                f"method linear takes the activations of every image, but of layer {layer} only "
                "the top images are stored: set capture.keep=full (keep=full in Python), which "
                "stores 4 bytes per image and unit"
            )


def _all_activations(
    captured: CapturedFeatures, layer: str, device: torch.device
) -> Float[Tensor, "images units"]:
    q = captured.activations[layer]
    assert isinstance(q, Tensor)  # by `_check_kept`
    return q.to(device)


def _table(
    layer: str, q: Tensor, fitted: FittedSums, names: Sequence[str], firing: Firing | None
) -> pd.DataFrame:
    """Return a row per unit with its sum, and that of the concept chosen first."""
    dead, rare = dead_units(q).cpu(), torch.zeros(len(fitted.bias), dtype=torch.bool)
    if firing is not None:
        dead, rare = dead | (firing.images == 0), firing.images < FEW_IMAGES
    correlation, first = fitted.correlation.tolist(), fitted.first.tolist()
    described = (fitted.described.cpu() & ~dead).tolist()
    trees = [
        tree if is_described else None
        for tree, is_described in zip(_trees(fitted, names), described, strict=True)
    ]
    texts = [[text_of(tree)] if tree else [] for tree in trees]
    columns: dict[str, Any] = {"layer": layer, "unit": range(len(trees))}
    columns |= description_columns(texts, [[c] for c in correlation], 1)
    few = fitted.correlation.isnan().cpu() & ~dead
    masks = {DEAD: dead, FEW: few, RARE: rare}
    columns[COLUMN] = flags_of({name: mask.numpy() for name, mask in masks.items()})
    columns[formulas.COLUMN] = [formulas.written(tree) if tree else "" for tree in trees]
    columns["length"] = [len(tree["of"]) if tree else 0 for tree in trees]
    numbers = fitted.concepts[:, 0].tolist()
    columns["label_1"] = [names[n] if tree else "" for n, tree in zip(numbers, trees, strict=True)]
    columns["correlation_1"] = first
    table: pd.DataFrame = pd.DataFrame(columns | (firing_columns(firing) if firing else {}))
    table.loc[~np.array(described), ["similarity", "correlation_1"]] = np.nan
    return table


def _trees(fitted: FittedSums, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield each unit's sum, the largest weights first; empty ones, too."""
    rows = (fitted.concepts.tolist(), fitted.weights.tolist(), fitted.bias.tolist())
    for concepts, weights, bias in zip(*rows, strict=True):
        terms = [(n, w) for n, w in zip(concepts, weights, strict=True) if n != NONE]
        terms.sort(key=lambda term: -abs(term[1]))
        rounded = [_rounded(weight) for _, weight in terms]
        yield formulas.weighted_sum([names[n] for n, _ in terms], rounded, _rounded(bias))


def _rounded(number: float) -> float:
    return float(f"{number:.7g}")  # as precise as the activations


def text_of(tree: formulas.Tree) -> str:
    """Return a sum in words; of a single concept with a positive weight, the concept."""
    if len(tree["of"]) == 1 and tree["weights"][0] > 0:
        return formulas.to_text(tree["of"][0])
    return formulas.to_text(tree)


def _not_converged(layer: str, fitted: FittedSums) -> list[str]:
    count = int((fitted.violation > NEGLIGIBLE).sum())
    return [f"the elastic nets of {count} units of {layer} have not converged"] if count else []
