"""Activation maps: a layer's output at every position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.capture.dataloader import batches
from clipdissect.capture.decoding import DecodeError, batch_requests
from clipdissect.capture.infer_layout import read_layers
from clipdissect.capture.latents import MAPS
from clipdissect.capture.networks import networks
from clipdissect.capture.output_layout import Reading
from clipdissect.capture.pooling import Summary
from clipdissect.capture.settings import Settings
from clipdissect.probe import Probe
from clipdissect.targets import Target


@dataclass(frozen=True)
class Maps:
    """The maps of a batch, with the probe numbers of its readable images."""

    images: Int[Tensor, " images"]
    layers: dict[str, Float[Tensor, "images units h w"]]  # float32; empty if none is readable
    skipped: list[DecodeError] = field(default_factory=list)


@torch.no_grad()
def activation_maps(
    target: Target,
    layers: Sequence[str],
    probe: Probe,
    settings: Settings,
    readings: Mapping[str, Reading] | None = None,
) -> Iterator[Maps]:
    """Yield the layers' maps per batch, in the probe's order."""
    requests = batch_requests(range(len(probe)), settings.images_a_batch, (0,))
    readings = readings or map_readings(target, layers, settings)
    with (
        networks(target, readings, None, settings, MAPS) as run,
        closing(batches(probe, run.transforms, requests, settings)) as stream,
    ):
        for batch in stream:
            maps = run(layers, batch.inputs[0], None) if 0 in batch.inputs else {}
            yield Maps(batch.indices, maps, batch.skipped)


def map_readings(target: Target, layers: Sequence[str], settings: Settings) -> dict[str, Reading]:
    return read_layers(target, layers, of_maps(settings), settings.torch_device)


def of_maps(settings: Settings) -> Summary:
    """Return the summary to read maps with; only its layout matters."""
    return Summary("mean", settings.summary.layout)
