"""Activation maps: a layer's output at every position, for methods that look where a unit fires."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from math import isqrt

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.forward import networks
from clipdissect.loader import Request, Skipped, batches, workers_for
from clipdissect.probe import Probe
from clipdissect.settings import Settings
from clipdissect.summary import Context, layout_of
from clipdissect.target import Target


@dataclass(frozen=True)
class Maps:
    """The maps of a batch of images.

    Args:
        images: their numbers in the probe, `[images]`; unreadable ones are missing.
        layers: layer to `[images, units, h, w]`, float32, on the device; empty where no image of
            the batch was readable.
        skipped: the unreadable images of the batch.
    """

    images: Int[Tensor, " images"]
    layers: dict[str, Float[Tensor, "images units h w"]]
    skipped: list[Skipped] = field(default_factory=list)


@torch.no_grad()
def activation_maps(
    target: Target, layers: Sequence[str], probe: Probe, settings: Settings
) -> Iterator[Maps]:
    """The layers' maps, batch by batch in the probe's order; for some images, give a subset.

    Args:
        target: the network, with its preprocessing.
        layers: of the target; see `as_maps` for what they may return.
        probe: the images, each decoded once.
        settings: device, precision, batches and layout.

    Raises:
        DissectError: unknown layer, or an output that is neither vectors, tokens nor maps.
    """
    step = settings.images_a_batch
    requests = [
        Request(range(start, min(start + step, len(probe))), (0,))
        for start in range(0, len(probe), step)
    ]
    workers = workers_for(settings)
    stream = batches(probe, (target.preprocess,), requests, workers)

    def reduce(output: Tensor, context: Context) -> Tensor:
        return as_maps(output, context, settings.summary.layout)

    with networks(target, layers, None, settings, reduce) as run, closing(stream):
        for batch in stream:
            found = run(layers, batch.inputs[0], None) if 0 in batch.inputs else {}
            yield Maps(batch.indices, found, batch.skipped)


def as_maps(
    output: Tensor, context: Context, layout: str = "auto"
) -> Float[Tensor, "images units h w"]:
    """A layer's output as maps: a vector's is one position, tokens lie in a square grid.

    Args:
        output: `[images, units]`, `[images, tokens, units]` (a class token is left out),
            `[images, units, h, w]` or `[images, h, w, units]`.
        context: what is known of the layer and the network.
        layout: of 4-dimensional outputs, one of `summary.LAYOUTS`.

    Raises:
        DissectError: another shape, or tokens that don't form a square.
    """
    values = output.detach().float()
    if values.ndim == 2:
        return values[:, :, None, None]
    if values.ndim == 3:
        return _grid(values, context)
    if values.ndim == 4:
        last = layout_of(values, context, layout) == "channels_last"
        return values.permute(0, 3, 1, 2) if last else values
    raise DissectError(
        f"layer {context.layer} returns a tensor of shape {tuple(values.shape)}, which has no map"
    )


def _grid(tokens: Tensor, context: Context) -> Tensor:
    patches = tokens[:, 1:] if context.has_class_token else tokens
    side = isqrt(patches.shape[1])
    if side * side != patches.shape[1] or not side:
        raise DissectError(
            f"layer {context.layer} returns {tokens.shape[1]} tokens, which don't form a square "
            f"grid of patches: choose a layer of maps"
        )
    images, _, units = patches.shape
    return patches.transpose(1, 2).reshape(images, units, side, side)
