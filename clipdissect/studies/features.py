"""Captured features for studies that use parts of a probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.capture.capture import capture
from clipdissect.capture.features import CapturedFeatures
from clipdissect.capture.text_embeddings import text_embeddings
from clipdissect.errors import DissectError
from clipdissect.method import Job
from clipdissect.results.describe import describe_layer
from clipdissect.similarity import Similarity
from clipdissect.similarity.inputs import ConceptActivations


@dataclass(frozen=True, eq=False)
class Features:
    """A job's captured features of the probe, and the embeddings of its concepts."""

    job: Job
    captured: CapturedFeatures
    texts: Float[Tensor, "concepts dims"]

    def activations(self, layer: str) -> Float[Tensor, "images units"]:
        check_keep(self.job)
        q = self.captured.activations[layer]
        assert isinstance(q, Tensor)
        return q

    def describe(
        self, layer: str, rows: Sequence[int] | None = None, truth: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Describe a layer's units by the readable images `rows` (None for all)."""
        q, images = self.activations(layer), self.captured.image_embeds
        if rows is not None:
            chosen = torch.tensor(list(rows), dtype=torch.int64)
            q, images = q[chosen], images[chosen]
        similarity, concepts = similarity_of(self.job), self.job.concepts
        assert concepts is not None  # checked by `features`
        check_images(similarity, len(q))
        activations = ConceptActivations(images, self.texts)
        return describe_layer(
            layer, q, activations, concepts.texts, similarity, self.job.top, truth, null=False
        )


def features(job: Job, layers: Sequence[str]) -> Features:
    """Capture layers of the job's target and embed its concepts, cached in the store."""
    target, probe, concepts, encoder = job.target, job.probe, job.concepts, job.encoder
    if target is None or probe is None or concepts is None or encoder is None:
        raise DissectError("this study needs target, probe, concepts and encoder")
    similarity, device = similarity_of(job), job.settings.torch_device
    embeds = text_embeddings(
        encoder.embed_texts, encoder.text_digest, concepts.texts, job.store, device
    )
    captured = capture(
        replace(target, layers=tuple(layers)),
        layers,
        encoder,
        probe,
        job.store,
        job.settings,
        top_k=max(similarity.images_per_unit or 0, job.images),
        team=job.team,
    )
    return Features(job, captured, embeds)


def similarity_of(job: Job) -> Similarity:
    if job.similarity is None:
        raise DissectError("this study needs a similarity function")
    return job.similarity


def check_keep(job: Job) -> None:
    if job.settings.keep != "full":
        raise DissectError("this study needs every activation: use capture.keep=full")


def check_images(similarity: Similarity, images: int) -> None:
    """Raise a DissectError if the similarity's `top_k` exceeds the number of images."""
    top_k = similarity.images_per_unit
    if top_k is not None and top_k > images:
        raise DissectError(
            f"similarity.top_k is {top_k}, but {images} images are left: lower top_k, or use a "
            f"larger probe"
        )
