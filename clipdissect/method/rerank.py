"""Reranking of CLIP-Dissect's best concepts by a second encoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect import encoder as encoders
from clipdissect.capture.features import CapturedFeatures
from clipdissect.dissection import Evidence, Job, capture_features, check_top_k, embed_concepts
from clipdissect.encoder import Encoder
from clipdissect.encoder.calibration import (
    UNCALIBRATED,
    Calibration,
    fit_to_labels,
    published_calibration,
    simulate,
)
from clipdissect.errors import DissectError
from clipdissect.probe import Probe
from clipdissect.similarity import Similarity
from clipdissect.similarity.base import Activations, Plan, all_activations
from clipdissect.similarity.inputs import Best, ConceptActivations
from clipdissect.similarity.sources import Source, concept_blocks
from clipdissect.utils.type_checks import check_choice, check_range

NONE, ENCODER, SIMULATION = KINDS = ("none", "encoder", "simulation")
NEEDS_RERANKER = (
    "it needs a second encoder, other than the one that finds the candidates: "
    "method.reranker=NAME, or method.reranker={name: conse, classifier: efficientnet_lite0}"
)

Rows = Int[Tensor, " rows"]
Split = tuple[Int[Tensor, " first"], Int[Tensor, " second"]]  # rows of the two stages


@dataclass(frozen=True, kw_only=True)
class Simulated(Similarity):
    """Pearson's correlation of activations with simulated ones, `sigmoid(scale * (P + bias))`.

    Activations that don't vary score 0.

    Args:
        calibration: scale and bias; None: the concept activations themselves.

    Source: Oikarinen & Weng, "Linear Explanations for Individual Neurons", ICML 2024.
    """

    calibration: Calibration | None = None
    name: ClassVar[str] = "simulation"

    def _plan(self, source: Source, q: Activations) -> Plan:
        units = _standardised(all_activations(self.name, q)).T.contiguous()
        floats = 3 * source.images + len(units)
        blocks = concept_blocks(source.concepts, floats, self.memory_gb, source.device)

        def scores(start: int, stop: int) -> Float[Tensor, "units block"]:
            return units @ _standardised(simulate(source.block(start, stop), self.calibration))

        magnitudes = torch.ones(len(units), dtype=torch.float32, device=units.device)
        return Plan(len(units), blocks, scores, magnitudes)


def _standardised(values: Float[Tensor, "images n"]) -> Float[Tensor, "images n"]:
    """Return columns of mean 0 and length 1; zeros where a column doesn't vary."""
    centred = values - values.mean(0, dtype=torch.float64).to(values.dtype)
    varies = values.amax(0) > values.amin(0)
    lengths: Tensor = centred.norm(dim=0)
    return centred / lengths.where(varies, torch.inf)


@dataclass(frozen=True, kw_only=True)
class Reranked(Similarity):
    """The best concepts of a first similarity function, in the order of a second one.

    It takes concept activations whose rows have the first encoder's `dims` numbers, then the
    second's: what permutes images, as the null does, permutes them for both. The scores are the
    second function's; of equal ones the concept that the first prefers comes first.

    Args:
        first: finds the candidates.
        second: orders them.
        dims: of the first encoder's embeddings.
        candidates: per unit.
        split: rows of the images of the first stage, and of the second; None: all, for both.
    """

    first: Similarity
    second: Similarity
    dims: int
    candidates: int
    split: Split | None = None
    name: ClassVar[str] = "reranked"

    @property
    def images_per_unit(self) -> int | None:
        return self.first.images_per_unit

    def images_of(self, probe: int) -> int | None:
        return self.first.images_of(probe)

    def top(self, concept_activations: ConceptActivations, q: Activations, n: int) -> Best:
        """Return the best `n` of the candidates per unit; see `Similarity.top`."""
        best, scores, magnitudes = self._stages(concept_activations, q, n)
        order = scores.sort(dim=1, descending=True, stable=True).indices
        scores, n = scores.gather(1, order), min(n, scores.shape[1])
        margin = scores[:, 0] - scores[:, 1] if scores.shape[1] > 1 else scores[:, 0] * torch.nan
        largest = scores[:, 0].abs() if magnitudes is None else magnitudes
        resolution = largest * torch.finfo(torch.float32).eps
        concepts, first = (part.gather(1, order)[:, :n] for part in (best.concepts, best.scores))
        return Best(concepts, scores[:, :n], margin, resolution, first)

    def streaming(self, concept_activations: ConceptActivations, q: Activations) -> Plan:
        """Return a plan whose scores have the order of all concepts, candidates before the others.

        Candidates score above the first stage's best, by 1 a place; the others as in it.
        """
        best, scores, _ = self._stages(concept_activations, q, 1)
        behind = (scores[:, None, :] > scores[:, :, None]).sum(2)
        places = best.scores[:, :1] + (self.candidates - behind)
        plan = self.first.streaming(*self._stage(0, concept_activations, q))

        def ordered(start: int, stop: int) -> Float[Tensor, "units block"]:
            block = plan.scores(start, stop)
            is_inside = (best.concepts >= start) & (best.concepts < stop)
            units, slots = is_inside.nonzero(as_tuple=True)
            block[units, best.concepts[units, slots] - start] = places[units, slots]
            return block

        return replace(plan, scores=ordered)

    def _plan(self, source: Source, q: Activations) -> Plan:
        raise DissectError("reranking takes embeddings of images and texts, not a dense matrix")

    def _stages(
        self, concept_activations: ConceptActivations, q: Activations, n: int
    ) -> tuple[Best, Float[Tensor, "units n"], Float[Tensor, " units"] | None]:
        """Return the candidates, their second scores, and the magnitudes of these."""
        with torch.no_grad():
            count = max(n, self.candidates)
            best = self.first.top(*self._stage(0, concept_activations, q), count)
            plan = self.second.streaming(*self._stage(1, concept_activations, q))
            scores = torch.empty_like(best.scores)
            for start, stop in plan.blocks:
                inside = (best.concepts >= start) & (best.concepts < stop)
                columns = (best.concepts - start).clamp(0, stop - start - 1)
                scores = torch.where(inside, plan.scores(start, stop).gather(1, columns), scores)
        return best, scores, plan.magnitudes

    def _stage(
        self, stage: int, concept_activations: ConceptActivations, q: Activations
    ) -> tuple[ConceptActivations, Activations]:
        """Return one encoder's embeddings of a stage's images, and the activations on these."""
        part = slice(None, self.dims) if stage == 0 else slice(self.dims, None)
        images = concept_activations.image_embeds[:, part]
        texts = concept_activations.text_embeds[:, part].contiguous()
        if self.split is None:
            return ConceptActivations(images.contiguous(), texts), q
        rows = self.split[stage].to(images.device)
        return ConceptActivations(images[rows], texts), all_activations(SIMULATION, q)[rows]


@dataclass(frozen=True, kw_only=True)
class RerankedOfTop(Reranked):
    """`Reranked` of two functions that take each unit's top images only."""

    needs_all: ClassVar[bool] = False


@dataclass(frozen=True)
class Reranker:
    """Reranking by an encoder or by simulation; see `ClipDissect`.

    Args:
        kind: `encoder` or `simulation`.
        encoder: the second one.
        candidates: the first stage's best concepts per unit.
        held_out: share of the images that only the simulation uses.
        seed: of the split.
    """

    kind: str
    encoder: Encoder
    candidates: int
    held_out: float
    seed: int

    def second_job(self, job: Job) -> Job:
        """Return the job whose embeddings are the second encoder's."""
        return replace(job, encoder=self.encoder)

    def check(self, job: Job) -> None:
        """Raise a DissectError for a job that it can't rerank."""
        target, encoder = job.require("clip_dissect", ("target", "encoder"))
        same = (
            getattr(self.encoder, name) == getattr(encoder, name)
            for name in ("image_digest", "text_digest")
        )
        if all(same):
            raise DissectError(
                f"method.reranker is the encoder that finds the candidates, {encoder.name}: "
                f"{NEEDS_RERANKER}"
            )
        partial_layers = [
            layer for layer in target.layers if job.settings.keeps_top_k(layer in target.saes)
        ]
        if self.kind == SIMULATION and (partial_layers or target.saes):
            raise DissectError(
                f"method.rerank=simulation needs the activations of every image, but of layer "
                f"{(partial_layers or list(target.saes))[0]} only the top images are used: set "
                "capture.keep=full and leave out sae, or use method.rerank=encoder"
            )

    def prepare(self, job: Job, captured: CapturedFeatures, evidence: Evidence) -> Evidence:
        """Return the evidence with the second encoder's embeddings and the second stage."""
        target, probe, concepts = job.require("clip_dissect", ("target", "probe", "concepts"))
        second = capture_features(self.second_job(job), target.layers)
        if second.images != captured.images:
            raise DissectError("some image could be read for one of the encoders only: run again")
        texts = embed_concepts(self.encoder, concepts, job.store, job.settings)
        own = ConceptActivations(second.image_embeds, texts.embeddings)
        similarity, facts, notes = self._similarity(evidence, own, probe, captured.images)
        digests = {
            "reranker images": second.digests["encoder images"],
            "reranker texts": texts.digest,
        }
        return replace(
            evidence,
            similarity=similarity,
            concept_activations=_joined(evidence.concept_activations, own),
            digests={**evidence.digests, **digests},
            computed=(*evidence.computed, *(f"reranker: {name}" for name in second.computed)),
            notes=(*evidence.notes, *self.encoder.notes, *texts.notes, *notes),
            facts={**evidence.facts, "reranker": {"name": self.encoder.name, **facts}},
        )

    def _similarity(
        self, evidence: Evidence, own: ConceptActivations, probe: Probe, images: tuple[str, ...]
    ) -> tuple[Similarity, dict[str, Any], tuple[str, ...]]:
        first = evidence.similarity
        stages = partial(
            Reranked if first.needs_all or self.kind == SIMULATION else RerankedOfTop,
            first=first,
            dims=evidence.dims,
            candidates=self.candidates,
            dead=first.dead,
        )
        if self.kind == ENCODER:
            return stages(second=first), {}, ()
        split = split_rows(len(images), self.held_out, self.seed)
        check_top_k(first, len(split[0]))
        calibration = published_calibration(self.encoder)
        calibration = calibration or self._fitted(own, probe, images, split[0])
        second = Simulated(calibration=calibration, memory_gb=first.memory_gb, dead=first.dead)
        facts: dict[str, Any] = {"images": [len(rows) for rows in split]}
        facts["calibration"] = asdict(calibration) if calibration else None
        notes = () if calibration else (f"the reranker: {UNCALIBRATED}",)
        return stages(second=second, split=split), facts, notes

    def _fitted(
        self, own: ConceptActivations, probe: Probe, images: tuple[str, ...], rows: Rows
    ) -> Calibration | None:
        """Fit the constants to labels of the first stage's images; None if there are none."""
        return fit_to_labels(
            probe,
            [images[row] for row in rows.tolist()],
            lambda texts: own.image_embeds[rows] @ self.encoder.embed_texts(texts, "cpu").T,
        )


def reranker_of(
    kind: str, encoder: Any, candidates: int, held_out: float, seed: int
) -> Reranker | None:
    """Return the reranker of a method's parameters; None for `none`.

    Raises:
        DissectError: a parameter out of its range, no or an unknown encoder.
    """
    if kind == NONE:
        return None
    if encoder is None:
        raise DissectError(f"method.rerank is {kind}; {NEEDS_RERANKER}")
    return Reranker(kind, encoders.resolve(encoder), candidates, held_out, seed)


def check_parameters(kind: str, candidates: int, held_out: float, seed: int) -> None:
    """Raise a DissectError for a parameter of `ClipDissect` out of its range."""
    check_choice("method.rerank", kind, KINDS)
    check_range("method.candidates", candidates, 2)
    check_range("method.seed", seed, 0)
    if not 0 < held_out < 1:
        raise DissectError(f"method.held_out is {held_out}; it must be between 0 and 1")


def split_rows(images: int, held_out: float, seed: int) -> Split:
    """Return a random split of rows, each in increasing order; the second has the share held out.

    Raises:
        DissectError: fewer than 2 images in a part.
    """
    count = round(images * held_out)
    if min(count, images - count) < 2:
        raise DissectError(
            f"method.held_out={held_out} of {images} images leaves {images - count} and {count}; "
            "each part must have at least 2"
        )
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    return order[count:].sort().values, order[:count].sort().values


def _joined(first: ConceptActivations, second: ConceptActivations) -> ConceptActivations:
    join = partial(torch.cat, dim=1)
    return ConceptActivations(
        join([first.image_embeds.float(), second.image_embeds.float()]),
        join([first.text_embeds.float(), second.text_embeds.float()]),
    )
