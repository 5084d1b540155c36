"""The main job: describe the units of a network's layers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from clipdissect import concepts as concept_sets
from clipdissect import encoder as encoders
from clipdissect import probe as probes
from clipdissect import similarity as similarities
from clipdissect import targets
from clipdissect.capture.capture import capture, check_layers
from clipdissect.capture.capture import run_worker as run_capture_worker
from clipdissect.capture.settings import Settings
from clipdissect.capture.text_embeddings import text_embeddings
from clipdissect.concepts import Concepts
from clipdissect.encoder import Encoder
from clipdissect.errors import DissectError, unknown
from clipdissect.results.describe import SHUFFLED_BY, Describer, top_images_of_layer
from clipdissect.results.histograms import histograms
from clipdissect.results.provenance import provenance
from clipdissect.results.result import Result
from clipdissect.similarity import Similarity
from clipdissect.similarity.inputs import ConceptActivations
from clipdissect.store import Store
from clipdissect.targets import Target
from clipdissect.targets.wrappers import unwrap
from clipdissect.utils import registry
from clipdissect.utils.distributed import ALONE, Team, all_cores
from clipdissect.utils.hashing import Transform
from clipdissect.utils.paths import store_dir
from clipdissect.utils.timing import Timers
from clipdissect.utils.type_checks import shortened

log = logging.getLogger(__name__)


def dissect(
    model: nn.Module | Target | Mapping[str, Any] | str,
    layers: Sequence[str] | None = None,
    *,
    probe: Any,
    concepts: Concepts | Sequence[str] | Mapping[str, Any] | str | Path,
    preprocess: Transform | None = None,
    encoder: Encoder | Mapping[str, Any] | str = "clip_vit_b16",
    similarity: Similarity | Mapping[str, Any] | str = "soft_wpmi",
    settings: Settings | None = None,
    device: str | torch.device | None = None,
    store: Store | str | Path | None = "auto",
    top: int = 5,
    images: int = 10,
    team: Team = ALONE,
    truth: Mapping[str, Sequence[str]] | None = None,
    null_similarity: bool = True,
) -> Result:
    """Describe every unit of the layers by the concepts that match its activations best.

    Wherever a name is taken, so is a mapping of it and its parameters, such as
    `similarity={"name": "soft_wpmi", "top_k": 20}`.

    Args:
        model: any network, a `Target`, or a target's name.
        layers: dotted module names, with `[part]` after one that returns a tuple or dict; by
            default the target's own.
        probe: a folder of images, a probe's name, a `Probe`, or a map-style dataset of images.
        concepts: a list of texts, a concept set's name, a text file, or a `Concepts`.
        preprocess: PIL image to the network's input; needed with a plain network.
        encoder: an encoder's name or an `Encoder`.
        similarity: a similarity function's name, or one from `similarity.build`.
        settings: device, precision, batches and the summary of activations.
        device: in place of the settings' one: `cpu`, `cuda`, `cuda:1`.
        store: where features are kept; a folder, `auto` for the user cache, None for nowhere.
        top: descriptions per unit.
        images: top images per unit.
        team: processes that share the images, from `distributed.from_environment`; the leader calls
            this, the others `run_worker`.
        truth: a layer's right concepts, one a unit, for `truth_rank`; it costs two more passes
            over the concepts, and changes no description.
        null_similarity: whether to score every unit once more with shuffled images, for the column
            of that name; it takes as long as the scoring, and changes no description.

    Returns:
        Descriptions, top images and provenance.

    Raises:
        DissectError: a mistake in what was asked for; the message says what to change.

    Source:
        Oikarinen & Weng, ICLR 2023, Sec. 3.
    """
    stages = Timers()
    settings = _settings(settings, device)
    with stages.stage("load"):
        chosen = _target(model, layers, preprocess)
        image_set, texts = probes.resolve(probe), concept_sets.resolve(concepts)
        scorer = _similarity(similarity)
        image_text = encoders.resolve(encoder)
        kept = _store(store)
    check_layers(chosen.model, chosen.layers)
    _check_counts(scorer, len(image_set), top, images)
    _check_kept(scorer, settings)
    if not isinstance(team, Team):
        raise DissectError(
            f"team must come from clipdissect.utils.distributed; got {shortened(team)}"
        )
    return _dissect(
        chosen, image_set, texts, image_text, scorer, settings, kept, top, images, stages, team,
        _checked_truth(truth, chosen.layers), null_similarity,
    )  # fmt: skip


def run_worker(
    target: Target, *, probe: probes.Probe, encoder: Encoder, similarity: Similarity,
    settings: Settings, store: Store, images: int, team: Team,
) -> None:  # fmt: skip
    """What the other processes of a team do while the leader runs `dissect`: their images.

    Args:
        target, probe, encoder, similarity, settings, store, images, team: as the leader's.

    Raises:
        DissectError: as `dissect`; or another process stopped.
    """
    run_capture_worker(
        target, target.layers, encoder, probe, store, settings,
        top_k=_kept_images(similarity, images), team=team,
    )  # fmt: skip


def _dissect(
    target: Target, probe: probes.Probe, concepts: Concepts, encoder: Encoder, scorer: Similarity,
    settings: Settings, store: Store | None, top: int, images: int, stages: Timers, team: Team,
    truth: Mapping[str, Sequence[str]], null: bool,
) -> Result:  # fmt: skip
    with stages.stage("texts"), all_cores(team):
        notes = encoders.text_notes(encoder, concepts.texts)
        text_digest = encoder.text_digest  # asked for once: it may hash a whole network
        embeds = text_embeddings(
            encoder.embed_texts, text_digest, concepts.texts, store, settings.torch_device
        )
    with stages.stage("images"):
        captured = capture(
            target, target.layers, encoder, probe, store, settings,
            top_k=_kept_images(scorer, images), team=team,
        )  # fmt: skip
    warn_of_skipped(captured.skipped, len(probe))
    _check_counts(scorer, len(captured.images), top, images)
    activations = ConceptActivations(captured.image_embeds, embeds)
    describer = Describer(activations, concepts.texts, scorer, top, null)
    shown, counted = [], {}
    with all_cores(team):
        for layer in captured.activations:
            with stages.stage("summaries"):
                q = captured.activations[layer]  # read one layer at a time
                shown.append(top_images_of_layer(layer, q, captured.images, images))
                counted[layer] = histograms(q)
            with stages.stage("similarity"):
                describer.add(layer, q, truth.get(layer))
        with stages.stage("similarity"):
            described = describer.tables()
    run = provenance(target, probe, concepts, encoder, scorer, settings, captured)
    run["digests"]["encoder texts"] = text_digest
    run["null"] = {"shuffled_by": SHUFFLED_BY} if null else None
    run["notes"] += notes
    run["seconds"] = stages.seconds
    run["seconds_of_images"] = captured.seconds
    return Result(
        pd.concat(described, ignore_index=True), pd.concat(shown, ignore_index=True), run, counted,
        vocabulary=concepts,
    )  # fmt: skip


def _settings(settings: Settings | None, device: str | torch.device | None) -> Settings:
    if settings is not None and not isinstance(settings, Settings):
        raise DissectError(
            f"settings must be a clipdissect.Settings, such as Settings(batch_size=32); got "
            f"{shortened(settings)}"
        )
    settings = settings or Settings()
    if device is None:
        return settings
    return replace(settings, device=str(device) if isinstance(device, torch.device) else device)


def _similarity(given: Similarity | Mapping[str, Any] | str) -> Similarity:
    if isinstance(given, Similarity):
        return given
    return registry.named("similarity", similarities.build, given)


def _target(
    model: nn.Module | Target | Mapping[str, Any] | str,
    layers: Sequence[str] | None,
    preprocess: Transform | None,
) -> Target:
    listed = layers is None or (isinstance(layers, Sequence) and not isinstance(layers, str))
    if not listed or any(not isinstance(layer, str) for layer in layers or ()):
        raise DissectError(f"layers must be a list of names, such as ['layer4']; got {layers!r}")
    if isinstance(model, (str, Mapping)):
        model = registry.named("target", targets.build, model)
    if preprocess is not None and not callable(preprocess):
        raise DissectError(
            f"preprocess must be a function of a PIL image; got {shortened(preprocess)}"
        )
    if isinstance(model, nn.Module):
        if preprocess is None:
            raise DissectError(
                "preprocess is needed with a plain network: the transform from a "
                "PIL image to its input, as used for evaluating it"
            )
        model = Target(type(unwrap(model)).__name__, model, preprocess)
    if not isinstance(model, Target):
        raise DissectError(
            "model must be a torch.nn.Module, a Target or a target's name; got "
            + (f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__)
        )
    return replace(
        model,
        layers=model.layers if layers is None else tuple(layers),
        preprocess=preprocess or model.preprocess,
    )


def _store(store: Store | str | Path | None) -> Store | None:
    if store is None or isinstance(store, Store):
        return store
    if not isinstance(store, (str, Path)):
        raise DissectError(f"store must be a folder, 'auto' or None; got {shortened(store)}")
    return Store(store_dir() if store == "auto" else Path(store).expanduser())


def _checked_truth(
    truth: Mapping[str, Sequence[str]] | None, layers: Sequence[str]
) -> dict[str, Sequence[str]]:
    if truth is not None and not isinstance(truth, Mapping):
        raise DissectError(f"truth must be a mapping of layers to texts; got {shortened(truth)}")
    for layer in truth or ():
        if layer not in layers:
            raise unknown("layer of truth", layer, layers)
    return dict(truth or {})


def _check_counts(scorer: Similarity, images: int, top: int, shown: int) -> None:
    for name, count in (("top", top), ("images", shown)):
        if not isinstance(count, int):
            raise DissectError(f"{name} must be a whole number; got {shortened(count)}")
    top_k = scorer.parameters.get("top_k")
    if top_k is not None and top_k > images:
        raise DissectError(
            f"similarity.top_k is {top_k}, but the probe has only {images} images: "
            f"lower top_k (20 suits a few hundred images) or add images"
        )
    if top < 1 or shown < 1:
        raise DissectError(f"top and images must be at least 1; got {top} and {shown}")


def _check_kept(scorer: Similarity, settings: Settings) -> None:
    if settings.keep == "top_k" and scorer.needs_all:
        raise DissectError(
            f"similarity {scorer.name} needs the activations of every image: use keep=full "
            f"(capture.keep=full), or soft_wpmi or wpmi, for which the top images are enough"
        )


def _kept_images(scorer: Similarity, shown: int) -> int:
    """Top images a unit that the scores and the tables need."""
    return max(scorer.parameters.get("top_k") or 0, shown)


def warn_of_skipped(skipped: Mapping[str, str], images: int) -> None:
    """Log that some of so many images were left out, if any were.

    Args:
        skipped: their names, with the reason.
        images: how many there are in all.
    """
    if skipped:
        first, reason = next(iter(skipped.items()))
        log.warning(
            "%d of %d images can't be read and are left out, such as %s (%s); all are "
            "listed in run.json",
            len(skipped),
            images,
            first,
            reason,
        )
