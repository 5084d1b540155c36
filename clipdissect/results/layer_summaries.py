"""A layer's top images and histograms, which no similarity function changes."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from clipdissect.capture.activations import Activations, TopKActivations
from clipdissect.capture.features import CapturedFeatures
from clipdissect.results.describe import top_images_of_layer
from clipdissect.results.histograms import Histograms, histograms
from clipdissect.utils import hashing
from clipdissect.utils.memo import Memo

_summaries: Memo[LayerSummary] = Memo(16)  # by what a layer's activations depend on


@dataclass(frozen=True)
class LayerSummary:
    """A layer's table of top images (as `top_images_of_layer`) and histograms."""

    top_images: pd.DataFrame
    histograms: Histograms


def summarise(
    layer: str, activations: Activations, captured: CapturedFeatures, count: int, numeric: str
) -> LayerSummary:
    """Summarise a layer, or return the summary of an earlier job of this process.

    Activations computed in this run may be of a network that isn't a function of the image, so
    only those from the store have a key. `numeric` is the precision.
    """

    def compute() -> LayerSummary:
        latents = layer in captured.firing
        top_images = top_images_of_layer(layer, activations, captured.images, count, latents)
        return LayerSummary(top_images, histograms(activations))

    if layer in captured.computed:
        return compute()
    kept = len(activations.top.values) if isinstance(activations, TopKActivations) else None
    digest = hashing.hash_values(captured.digests, captured.readings[layer].facts, numeric, kept)
    return _summaries.get((layer, digest, captured.images, count), compute)
