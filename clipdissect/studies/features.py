"""What networks make of a probe, for studies that look at parts of it."""

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
    """Activations, image embeddings and text embeddings of one job.

    Args:
        job: with target, probe, concepts, encoder and similarity.
        captured: of the probe.
        texts: embeddings of the concepts, `[concepts, dims]`.
    """

    job: Job
    captured: CapturedFeatures
    texts: Float[Tensor, "concepts dims"]

    def activations(self, layer: str) -> Float[Tensor, "images units"]:
        """A layer's activations of every image.

        Raises:
            DissectError: only the top images were kept.
        """
        q = self.captured.activations[layer]
        check_keep(self.job)
        assert isinstance(q, Tensor)
        return q

    def describe(
        self, layer: str, rows: Sequence[int] | None = None, truth: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Descriptions of a layer's units by some of the images.

        Args:
            layer: its name.
            rows: numbers of the images to use, among the readable ones; None for all.
            truth: the units' right concepts, for `truth_rank`.

        Raises:
            DissectError: fewer images than the similarity function's `top_k`; only the top images
                were kept.
        """
        q, images = self.activations(layer), self.captured.image_embeds
        if rows is not None:
            chosen = torch.tensor(list(rows), dtype=torch.int64)
            q, images = q[chosen], images[chosen]
        similarity, concepts = similarity_of(self.job), self.job.concepts
        assert concepts is not None  # `features` has seen to it
        check_images(similarity, len(q))
        activations = ConceptActivations(images, self.texts)
        return describe_layer(
            layer, q, activations, concepts.texts, similarity, self.job.top, truth, null=False
        )


def features(job: Job, layers: Sequence[str]) -> Features:
    """Capture layers of the job's target, and embed its concepts; from the store where it can.

    Raises:
        DissectError: a part is missing, or as `capture`.
    """
    target, probe, concepts, encoder = job.target, job.probe, job.concepts, job.encoder
    if target is None or probe is None or concepts is None or encoder is None:
        raise DissectError("this study needs target, probe, concepts and encoder")
    similarity = similarity_of(job)
    embeds = text_embeddings(
        encoder.embed_texts, encoder.text_digest, concepts.texts, job.store,
        job.settings.torch_device,
    )  # fmt: skip
    captured = capture(
        replace(target, layers=tuple(layers)), layers, encoder, probe, job.store, job.settings,
        top_k=max(similarity.parameters.get("top_k") or 0, job.images), team=job.team,
    )  # fmt: skip
    return Features(job, captured, embeds)


def similarity_of(job: Job) -> Similarity:
    """The job's similarity function.

    Raises:
        DissectError: it has none.
    """
    if job.similarity is None:
        raise DissectError("this study needs a similarity function")
    return job.similarity


def check_keep(job: Job) -> None:
    """Raise a DissectError unless every activation is kept."""
    if job.settings.keep != "full":
        raise DissectError("this study needs every activation: use capture.keep=full")


def check_images(similarity: Similarity, images: int) -> None:
    """Raise a DissectError where a similarity function's `top_k` is more than the images."""
    top_k = similarity.parameters.get("top_k")
    if top_k is not None and top_k > images:
        raise DissectError(
            f"similarity.top_k is {top_k}, but {images} images are left: lower top_k, or use a "
            f"larger probe"
        )
