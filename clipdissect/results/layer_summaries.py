"""A layer's top images, histograms and numbers, which no similarity function changes."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from clipdissect.capture.activations import Activations, TopKActivations, top_of
from clipdissect.capture.features import CapturedFeatures
from clipdissect.results import coherence
from clipdissect.results.describe import top_images_table
from clipdissect.results.histograms import Histograms, histograms
from clipdissect.results.vectors import top_image_means
from clipdissect.utils import hashing
from clipdissect.utils.memo import Memo

_summaries: Memo[LayerSummary] = Memo(16)  # by what a layer's activations depend on


@dataclass(frozen=True)
class LayerSummary:
    """A layer's table of top images (as `top_images_table`), histograms, and `unit_numbers`.

    `vectors` are `top_image_means` of the images in the table; None if no images are embedded.
    """

    top_images: pd.DataFrame
    histograms: Histograms
    units: pd.DataFrame
    vectors: Float[Tensor, "units dims"] | None = None


def summarise(
    layer: str,
    activations: Activations,
    captured: CapturedFeatures,
    embeds: Float[Tensor, "images dims"],
    count: int,
    numeric: str,
) -> LayerSummary:
    """Summarise a layer, or return the summary of an earlier job of this process.

    Activations computed in this run may be of a network that isn't a function of the image, so
    only those from the store have a key. `embeds` are the captured ones, on the activations'
    device; `numeric` is the precision.
    """

    def compute() -> LayerSummary:
        latents = layer in captured.firing
        top = top_of(activations, max(count, coherence.IMAGES))
        return LayerSummary(
            top_images_table(layer, top, captured.images, count, latents),
            histograms(activations),
            coherence.unit_numbers(layer, activations, top, embeds, latents),
            top_image_means(activations, top, embeds, count, latents),
        )

    if layer in captured.computed:
        return compute()
    kept = len(activations.top.values) if isinstance(activations, TopKActivations) else None
    digest = hashing.hash_values(captured.digests, captured.readings[layer].facts, numeric, kept)
    return _summaries.get((layer, digest, captured.images, count), compute)
