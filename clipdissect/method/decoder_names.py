"""Names of latents by the directions of their decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from clipdissect.capture.activations import Firing
from clipdissect.capture.capture import check_layers
from clipdissect.concepts import Concepts
from clipdissect.dissection import (
    NEEDS,
    ConceptEmbeddings,
    capture_features,
    check_counts,
    embed_concepts,
    log_skipped,
    manifest,
    vectors_of,
)
from clipdissect.errors import DissectError
from clipdissect.method.base import Job, Method
from clipdissect.method.clip_dissect import ClipDissect
from clipdissect.results.describe import description_columns, firing_columns
from clipdissect.results.flags import COLUMN, DEAD, TIED, flags_of
from clipdissect.results.layer_summaries import summarise
from clipdissect.results.tables import ResultTables
from clipdissect.sae.directions import nearest
from clipdissect.targets import Target
from clipdissect.utils.timing import Timers


@dataclass(frozen=True)
class DecoderNames(Method):
    """The concepts whose text embeddings are closest to the latents' decoder directions.

    For sparse autoencoders of the encoder's own image embeddings: the target's layer must be the
    output of the encoder's image network. Similarities are cosines; the images don't influence
    them and serve as top images only, so dead latents are named too.

    Source: Rao et al., "Discover-then-Name", ECCV 2024.
    """

    name: ClassVar[str] = "decoder_names"
    needs: ClassVar[tuple[str, ...]] = NEEDS

    def describe(self, job: Job) -> ResultTables:
        target, probe, concepts, encoder, _ = job.require(self.name, self.needs)
        timers = Timers()
        check_counts(job)
        check_layers(target, target.layers)
        decoders = {layer: _decoder(target, layer) for layer in target.layers}
        with timers.stage("texts"):
            texts = embed_concepts(encoder, concepts, job.store, job.settings)
        for layer, decoder in decoders.items():
            _check_space(layer, decoder, texts.embeddings, encoder.name)
        with timers.stage("images"):
            captured = capture_features(job, target.layers)
        log_skipped(captured.skipped, len(probe))
        embeds, numeric = captured.image_embeds, job.settings.numeric
        tables, summaries = [], {}
        for layer, decoder in decoders.items():
            with timers.stage("similarity"):
                names = _names(decoder.to(job.settings.scoring_device), texts, concepts, job.top)
                tables.append(_table(layer, names, job.top, captured.firing[layer]))
            with timers.stage("summaries"):
                q = captured.activations[layer]
                summaries[layer] = summarise(layer, q, captured, embeds, job.images, numeric)
        run = manifest(job, captured, texts) | {"method": {"name": self.name}}
        del run["similarity"]  # of no influence
        run["seconds"], run["seconds_of_images"] = timers.seconds, captured.seconds
        layers = list(summaries.values())
        parts = tables, [s.top_images for s in layers], [s.units for s in layers]
        descriptions, images, units = (pd.concat(part, ignore_index=True) for part in parts)
        histograms = {layer: summary.histograms for layer, summary in summaries.items()}
        of_layers = {layer: summary.vectors for layer, summary in summaries.items()}
        return ResultTables(
            descriptions,
            images,
            run,
            histograms,
            vocabulary=concepts,
            unit_metrics=units,
            vectors=vectors_of(job, captured, of_layers, images, texts),
        )

    def run_worker(self, job: Job) -> None:
        ClipDissect().run_worker(job)  # which captures the same


def _decoder(target: Target, layer: str) -> Float[Tensor, "latents dims"]:
    sae = target.saes.get(layer)
    if sae is None:
        raise DissectError(
            f"method decoder_names names latents of sparse autoencoders, and layer {layer} has "
            f"none: set sae and sae.layer, and target.layers to that layer"
        )
    if sae.decoder is None:
        raise DissectError(f"method decoder_names: sae {sae.name} has no known decoder (W_dec)")
    return sae.decoder.detach()


def _check_space(
    layer: str,
    decoder: Float[Tensor, "latents dims"],
    texts: Float[Tensor, "concepts dims"],
    encoder: str,
) -> None:
    if decoder.shape[1] != texts.shape[1]:
        raise DissectError(
            f"method decoder_names: decoder directions of {layer} have {decoder.shape[1]} "
            f"dimensions, text embeddings of encoder {encoder} have {texts.shape[1]}: the "
            f"autoencoder must be one of this encoder's image embeddings"
        )


def _names(
    decoder: Float[Tensor, "latents dims"],
    texts: ConceptEmbeddings,
    concepts: Concepts,
    top: int,
) -> list[tuple[list[str], list[float]]]:
    """Return each latent's closest texts and their cosines; none for directions of length 0."""
    found = nearest(decoder, texts.embeddings, max(2, top)).as_lists
    return [([concepts.texts[n] for n, _ in row], [cosine for _, cosine in row]) for row in found]


def _table(
    layer: str, names: list[tuple[list[str], list[float]]], top: int, firing: Firing
) -> pd.DataFrame:
    texts, scores = zip(*names, strict=True)
    columns: dict[str, Any] = {"layer": layer, "unit": range(len(names))}
    columns |= description_columns(texts, scores, top)
    masks = {DEAD: (firing.images == 0).numpy(), TIED: np.array(columns["margin"]) == 0}
    columns |= {COLUMN: flags_of(masks), **firing_columns(firing)}
    table: pd.DataFrame = pd.DataFrame(columns)
    return table
