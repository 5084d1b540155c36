"""Captured features for studies that use parts of a probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.capture.features import CapturedFeatures
from clipdissect.dissection import NEEDS, capture_features, check_top_k, embed_concepts
from clipdissect.errors import DissectError
from clipdissect.method import Job
from clipdissect.results.describe import describe_layer
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
        concepts, similarity = self.job.require("clip_dissect", ("concepts", "similarity"))
        check_top_k(similarity, len(q))
        device = self.job.settings.scoring_device
        activations = ConceptActivations(images, self.texts).to(device)
        return describe_layer(
            layer, q, activations, concepts.texts, similarity, self.job.top, truth, null=False
        )


def features(job: Job, layers: Sequence[str]) -> Features:
    """Capture layers of the job's target and embed its concepts, cached in the store."""
    target, _, concepts, encoder, _ = job.require("clip_dissect", NEEDS)
    texts = embed_concepts(encoder, concepts, job.store, job.settings)
    chosen = replace(job, target=replace(target, layers=tuple(layers)))
    return Features(job, capture_features(chosen, layers), texts.embeddings)


def check_keep(job: Job) -> None:
    if job.settings.keep == "top_k":
        raise DissectError("this study needs every activation: use capture.keep=full")
