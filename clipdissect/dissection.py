"""CLIP-Dissect: describe the units of a network's layers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect import encoder as encoders
from clipdissect import sae as saes
from clipdissect.capture.activations import Activations
from clipdissect.capture.capture import capture, check_layers
from clipdissect.capture.capture import run_worker as run_capture_worker
from clipdissect.capture.features import CapturedFeatures
from clipdissect.capture.settings import Settings
from clipdissect.capture.text_embeddings import text_embeddings
from clipdissect.concepts import Concepts
from clipdissect.encoder import Encoder
from clipdissect.errors import DissectError, unknown
from clipdissect.probe import Probe
from clipdissect.results.describe import SHUFFLED_BY, Describer
from clipdissect.results.histograms import Histograms
from clipdissect.results.layer_summaries import LayerSummary, summarise
from clipdissect.results.manifest import provenance
from clipdissect.results.meanings import check_most, meanings_table, with_meanings
from clipdissect.results.tables import ResultTables
from clipdissect.similarity import Similarity
from clipdissect.similarity.inputs import ConceptActivations
from clipdissect.store import Store
from clipdissect.targets import Target
from clipdissect.utils.distributed import ALONE, Team, all_cores
from clipdissect.utils.memo import Memo
from clipdissect.utils.paths import store_dir
from clipdissect.utils.timing import Timers
from clipdissect.utils.type_checks import shortened

log = logging.getLogger(__name__)

NEEDS = ("target", "probe", "concepts", "encoder", "similarity")


@dataclass(frozen=True)
class Job:
    """The inputs of a method, as for `dissect`; inputs that the method doesn't need may be None."""

    target: Target | None = None
    probe: Probe | None = None
    concepts: Concepts | None = None
    encoder: Encoder | None = None
    similarity: Similarity | None = None
    settings: Settings = field(default_factory=Settings)
    store: Store | None = None
    top: int = 5
    images: int = 10
    team: Team = ALONE
    truth: Mapping[str, Sequence[str]] = field(default_factory=dict)
    null: bool = True
    kept: Memo[KeptFeatures] | None = None  # of earlier jobs with the same, unchanged inputs

    def require(self, method: str, names: Sequence[str]) -> list[Any]:
        """Return the named inputs; raise a DissectError if any is None."""
        inputs = [getattr(self, name) for name in names]
        missing = [name for name, value in zip(names, inputs, strict=True) if value is None]
        if missing:
            raise DissectError(f"method {method} needs: {', '.join(missing)}")
        return inputs


@dataclass(frozen=True)
class KeptFeatures:
    """Features with the inputs that they are of, which are thus not deleted."""

    inputs: tuple[Any, ...]
    root: Path  # of the store; features that aren't cached are elsewhere
    features: CapturedFeatures

    @property
    def are_unchanged(self) -> bool:
        """Whether the store still has the files that were verified."""
        shards = self.features.shards
        return all(shard.path.is_relative_to(self.root) and shard.is_unchanged for shard in shards)


@dataclass(frozen=True)
class ConceptEmbeddings:
    """Text embeddings of a concept set, the encoder's text digest, and warnings to record."""

    embeddings: Float[Tensor, "concepts dims"]
    digest: str
    notes: list[str]


@dataclass(frozen=True)
class Evidence:
    """What units are scored by: the similarity function, and the images' and concepts' embeddings.

    The first rows and the first `dims` columns of the images' embeddings are the probe's images and
    the encoder's dimensions; a method may append others.
    """

    similarity: Similarity
    concept_activations: ConceptActivations
    dims: int
    # A layer's activations, with indices of rows of `concept_activations`.
    of_layer: Callable[[str, Activations], Activations] = lambda _, activations: activations
    digests: Mapping[str, str] = field(default_factory=dict)
    computed: tuple[str, ...] = ()  # arrays computed in this run; the others were cached
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


Prepare = Callable[[Job, CapturedFeatures, Evidence], Evidence]


def describe_units(
    job: Job,
    timers: Timers | None = None,
    prepare: Prepare | None = None,
    meanings: int = 1,
) -> ResultTables:
    """Run CLIP-Dissect on a job; raise a DissectError for a missing or unsuitable input.

    `prepare` changes what units are scored by, after the capture; `meanings`: see
    `method.ClipDissect`.
    """
    target, probe, concepts, encoder, similarity = job.require("clip_dissect", NEEDS)
    timers = timers or Timers()
    with timers.stage("load"):
        _check_job(job)
        check_most(meanings)
    with timers.stage("texts"), all_cores(job.team):
        texts = embed_concepts(encoder, concepts, job.store, job.settings)
    with timers.stage("images"):
        captured = capture_features(job, target.layers)
    log_skipped(captured.skipped, len(probe))
    check_top_k(similarity, len(captured.images))
    embeds = ConceptActivations(captured.image_embeds, texts.embeddings)
    evidence = Evidence(similarity, embeds, texts.embeddings.shape[1])
    if prepare:
        with timers.stage("evidence"):
            evidence = prepare(job, captured, evidence)
    with all_cores(job.team):
        described = _describe_on_device(job, captured, evidence, timers, meanings)
    run = manifest(job, captured, texts)
    run["digests"] |= evidence.digests
    run["computed"] += evidence.computed
    run["notes"] += [note for note in evidence.notes if note not in run["notes"]]
    run |= evidence.facts
    run["null"] = {"shuffled_by": SHUFFLED_BY} if job.null else None
    run["seconds"], run["seconds_of_images"] = timers.seconds, captured.seconds
    if described.facts is not None:
        run["meanings"] = described.facts
    return ResultTables(
        described.descriptions,
        described.top_images,
        run,
        described.histograms,
        vocabulary=concepts,
        units=described.units,
        meanings=described.meanings,
    )


@dataclass(frozen=True)
class _Described:
    descriptions: pd.DataFrame
    top_images: pd.DataFrame
    histograms: dict[str, Histograms]
    units: pd.DataFrame
    meanings: pd.DataFrame
    facts: dict[str, Any] | None  # on the meanings


def _describe_on_device(
    job: Job, captured: CapturedFeatures, evidence: Evidence, timers: Timers, meanings: int
) -> _Described:
    """Score where the networks run; if a GPU's memory doesn't suffice, on the CPU."""
    device = job.settings.scoring_device
    try:
        return _describe(job, captured, evidence, timers, meanings, device)
    except torch.OutOfMemoryError:
        log.warning("the GPU's memory is too small for scoring: scoring on the CPU")
    torch.cuda.empty_cache()
    return _describe(job, captured, evidence, timers, meanings, "cpu")


def _describe(
    job: Job,
    captured: CapturedFeatures,
    evidence: Evidence,
    timers: Timers,
    meanings: int,
    device: str,
) -> _Described:
    (concepts,) = job.require("clip_dissect", ("concepts",))
    with timers.stage("similarity"):
        activations = evidence.concept_activations.to(device)
        options = evidence.similarity, job.top, job.null, meanings
        describer = Describer(activations, concepts.texts, *options)
    embeds = activations.image_embeds[: len(captured.images), : evidence.dims]
    numeric = job.settings.numeric
    summaries: dict[str, LayerSummary] = {}
    for layer in captured.activations:
        with timers.stage("summaries"):
            q = captured.activations[layer].to(device)  # reads one layer at a time
            summaries[layer] = summarise(layer, q, captured, embeds, job.images, numeric)
        with timers.stage("similarity"):
            q = evidence.of_layer(layer, q)
            describer.add(layer, q, job.truth.get(layer), captured.firing.get(layer))
    with timers.stage("similarity"):
        descriptions = pd.concat(describer.tables(), ignore_index=True)
    top_images = pd.concat([s.top_images for s in summaries.values()], ignore_index=True)
    return _Described(
        descriptions,
        with_meanings(top_images, describer.meanings) if describer.splitter else top_images,
        {layer: summary.histograms for layer, summary in summaries.items()},
        pd.concat([s.units for s in summaries.values()], ignore_index=True),
        meanings_table(describer.meanings),
        describer.splitter.facts if describer.splitter else None,
    )


def run_worker(
    target: Target,
    *,
    probe: Probe,
    encoder: Encoder,
    similarity: Similarity,
    settings: Settings,
    store: Store,
    images: int,
    team: Team,
) -> None:
    """Capture this process's share of the images, while the leader runs `dissect`."""
    top_k = _stored_top_k(similarity, images)
    run_capture_worker(
        target, target.layers, encoder, probe, store, settings, top_k=top_k, team=team
    )


def capture_features(job: Job, layers: Sequence[str]) -> CapturedFeatures:
    """Capture layers of the job's target and its probe's image embeddings."""
    needs = ("target", "probe", "encoder", "similarity")
    target, probe, encoder, similarity = job.require("clip_dissect", needs)
    kept = job.kept.find(_key(job, layers)) if job.kept and job.team.size == 1 else None
    if kept is not None and kept.are_unchanged:
        return replace(kept.features, computed=(), seconds={})
    options: dict[str, Any] = {"top_k": _stored_top_k(similarity, job.images), "team": job.team}
    features = capture(target, layers, encoder, probe, job.store, job.settings, **options)
    keep_features(job, layers, features)
    return features


def keep_features(job: Job, layers: Sequence[str], features: CapturedFeatures) -> None:
    """Make `capture_features` return these features for a job with the same inputs."""
    if job.kept and job.store:
        inputs = job.target, job.probe, job.encoder
        job.kept.keep(_key(job, layers), KeptFeatures(inputs, job.store.root, features))


def _key(job: Job, layers: Sequence[str]) -> tuple[Any, ...]:
    (similarity,) = job.require("clip_dissect", ("similarity",))
    # By identity: equal networks may have other weights. `KeptFeatures` keeps the numbers taken.
    inputs = id(job.target), id(job.probe), id(job.encoder), job.store and job.store.root
    top_k = _stored_top_k(similarity, job.images) if _keeps_top_k(job) else None
    return (*inputs, tuple(layers), job.settings, top_k)


def embed_concepts(
    encoder: Encoder,
    concepts: Concepts,
    store: Store | None,
    settings: Settings,
    digest: str | None = None,
) -> ConceptEmbeddings:
    """Compute the text embeddings of a concept set, or read them from the store.

    `digest` is the encoder's text digest if known; computing it may hash a whole network.
    """
    digest = digest or encoder.text_digest
    notes = list(encoders.text_notes(encoder, concepts.texts, digest, store))
    embeddings = text_embeddings(
        encoder.embed_texts,
        digest,
        concepts.texts,
        store,
        settings.torch_device,
        settings.text_precision,
    )
    return ConceptEmbeddings(embeddings, digest, notes)


def manifest(job: Job, captured: CapturedFeatures, texts: ConceptEmbeddings) -> dict[str, Any]:
    """Return the run manifest of CLIP-Dissect on a job's captured features."""
    target, probe, concepts, encoder, similarity = job.require("clip_dissect", NEEDS)
    run = provenance(target, probe, concepts, encoder, similarity, job.settings, captured)
    run["digests"]["encoder texts"] = texts.digest
    run["notes"] += texts.notes
    return run


def log_skipped(skipped: Mapping[str, str], images: int) -> None:
    """Log the number of unreadable images of a probe, with the first one's reason."""
    if skipped:
        first, reason = next(iter(skipped.items()))
        log.warning(
            f"{len(skipped)} of {images} images can't be read and are left out, such as {first} "
            f"({reason}); all are listed in run.json"
        )


def resolve_settings(settings: Settings | None, device: str | torch.device | None) -> Settings:
    """Return the settings, on the device if one is given; see `api.dissect`."""
    if settings is not None and not isinstance(settings, Settings):
        raise DissectError(
            f"settings must be a clipdissect.Settings, such as Settings(batch_size=32); got "
            f"{shortened(settings)}"
        )
    settings = settings or Settings()
    if device is None:
        return settings
    return replace(settings, device=str(device) if isinstance(device, torch.device) else device)


def with_saes(target: Target, given: Any) -> Target:
    """Return a target whose layers have sparse autoencoders; see `api.dissect`."""
    if given is None:
        return target
    if not isinstance(given, Mapping) or "name" in given:
        return target.with_sae(saes.resolve(given))
    for layer, sae in given.items():
        target = target.with_sae(saes.resolve(sae).at(layer))
    return target


def resolve_store(store: Store | str | Path | None) -> Store | None:
    """Return a store from a folder, `auto` or None; see `api.dissect`."""
    if store is None or isinstance(store, Store):
        return store
    if not isinstance(store, (str, Path)):
        raise DissectError(f"store must be a folder, 'auto' or None; got {shortened(store)}")
    return Store(store_dir() if store == "auto" else Path(store).expanduser())


def _check_job(job: Job) -> None:
    """Check the inputs of CLIP-Dissect before any network runs."""
    target, probe, _, _, similarity = job.require("clip_dissect", NEEDS)
    check_layers(target, target.layers)
    check_counts(job)
    check_top_k(similarity, len(probe))
    if _keeps_top_k(job) and similarity.needs_all:
        stored = " of the latents, of which only the top images are stored" if target.saes else ""
        raise DissectError(
            f"similarity {similarity.name} needs the activations of every image{stored}: use "
            f"keep=full (capture.keep=full), or soft_wpmi or wpmi, which need the top images only"
        )
    if not isinstance(job.team, Team):
        raise DissectError(
            f"team must come from clipdissect.utils.distributed; got {shortened(job.team)}"
        )
    if not isinstance(job.truth, Mapping):
        raise DissectError(
            f"truth must be a mapping of layers to texts; got {shortened(job.truth)}"
        )
    for layer in job.truth:
        if layer not in target.layers:
            raise unknown("layer of truth", layer, target.layers)


def check_counts(job: Job) -> None:
    """Raise a DissectError unless the numbers of descriptions and images are at least 1."""
    for name, count in (("top", job.top), ("images", job.images)):
        if not isinstance(count, int):
            raise DissectError(f"{name} must be a whole number; got {shortened(count)}")
    if job.top < 1 or job.images < 1:
        raise DissectError(f"top and images must be at least 1; got {job.top} and {job.images}")


def _keeps_top_k(job: Job) -> bool:
    """Return whether of any layer only the top images are stored."""
    (target,) = job.require("clip_dissect", ("target",))
    return any(job.settings.keeps_top_k(layer in target.saes) for layer in target.layers)


def check_top_k(similarity: Similarity, images: int) -> None:
    """Raise a DissectError if the similarity's `top_k` exceeds the number of images."""
    top_k = similarity.images_per_unit
    if top_k is not None and top_k > images:
        raise DissectError(
            f"similarity.top_k is {top_k}, but only {images} images are available: lower top_k "
            f"(20 suits a few hundred images) or add images"
        )


def _stored_top_k(similarity: Similarity, images: int) -> int:
    """Return the k that both the scores and the table of top images need."""
    return max(similarity.images_per_unit or 0, images)
