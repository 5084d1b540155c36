"""The result of a capture: activations and embeddings, read from the store on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from itertools import accumulate
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.capture.activations import Activations, Firing, TopKActivations
from clipdissect.capture.output_layout import Reading
from clipdissect.capture.sae_fit import SaeFit
from clipdissect.errors import DissectError
from clipdissect.probe import Probe
from clipdissect.store import Shard

T = TypeVar("T")


class Lazy(Mapping[str, T]):
    """A mapping of layers to arrays, read on access and not held in memory."""

    def __init__(self, readers: Mapping[str, Callable[[], T]]) -> None:
        self.readers = dict(readers)

    def __getitem__(self, layer: str) -> T:
        return self.readers[layer]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.readers)

    def __len__(self) -> int:
        return len(self.readers)


@dataclass(frozen=True)
class CapturedFeatures:
    """The probe's features in the target and in the encoder."""

    images: tuple[str, ...]  # readable ones, in the probe's order
    activations: Mapping[str, Activations]  # [images, units], float32, or top-k images per unit
    read_embeds: Callable[[], Float[Tensor, "images dims"]]
    skipped: dict[str, str]  # unreadable images, with the reason
    computed: tuple[str, ...]  # arrays computed in this run; the others were cached
    digests: dict[str, str]  # of the target, the encoder and the images
    holder: Any = field(default=None, repr=False)  # keeps a temporary store alive
    firing: Mapping[str, Firing] = field(default_factory=dict)  # of layers with latents
    seconds: dict[str, float] = field(default_factory=dict)  # digests, decode (waiting), forward
    readings: Mapping[str, Reading] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # warnings to record with the results
    fits: Mapping[str, SaeFit] = field(default_factory=dict)  # of layers with latents
    shards: tuple[Shard, ...] = ()  # what the activations and embeddings are read from

    @property
    def image_embeds(self) -> Float[Tensor, "images dims"]:
        """`I [images, dims]`, float32, unit rows; read on each access."""
        return self.read_embeds()

    def rows(self, rows: Sequence[int], digest: str) -> CapturedFeatures:
        """Return the features of some images, by row; `digest` is their probe's.

        Activations must be stored in full: reading top-k lists raises a DissectError.
        """
        index = torch.as_tensor(rows, dtype=torch.int64)
        return replace(
            self,
            images=tuple(self.images[row] for row in rows),
            activations=Lazy(
                {
                    layer: partial(_rows, self.activations, layer, index)
                    for layer in self.activations
                }
            ),
            read_embeds=lambda: self.image_embeds[index],
            skipped={},
            computed=(),
            digests={**self.digests, "images": digest},
            holder=self,
            seconds={},
        )


def _rows(
    activations: Mapping[str, Activations], layer: str, index: Int[Tensor, " rows"]
) -> Float[Tensor, "rows units"]:
    of_layer = activations[layer]
    if isinstance(of_layer, TopKActivations):
        raise DissectError(
            f"layer {layer} has stored activations of its top images only: set capture.keep=full"
        )
    return of_layer[index]


def concatenate(probe: Probe, parts: Sequence[CapturedFeatures]) -> CapturedFeatures:
    """Return a union's features from those of `probe.parts`, in order."""
    starts = list(accumulate((len(part) for part in probe.parts), initial=0))
    pairs = [
        (features, dict(zip(part.images, probe.images[start : start + len(part)], strict=True)))
        for features, part, start in zip(parts, probe.parts, starts, strict=False)
    ]
    layers = parts[0].activations
    return CapturedFeatures(
        images=tuple(names[image] for part, names in pairs for image in part.images),
        activations=Lazy({layer: partial(_concatenated, layer, parts) for layer in layers}),
        firing=Lazy({layer: partial(_merged_firing, layer, parts) for layer in parts[0].firing}),
        read_embeds=lambda: torch.cat([part.image_embeds for part in parts]),
        skipped={names[i]: reason for part, names in pairs for i, reason in part.skipped.items()},
        computed=tuple(dict.fromkeys(name for part in parts for name in part.computed)),
        digests={**parts[0].digests, "images": probe.digest},
        shards=tuple(shard for part in parts for shard in part.shards),
    )


def _merged_firing(layer: str, parts: Sequence[CapturedFeatures]) -> Firing:
    return reduce(lambda merged, part: merged.merged(part), (part.firing[layer] for part in parts))


def _concatenated(layer: str, parts: Sequence[CapturedFeatures]) -> Activations:
    activations = [part.activations[layer] for part in parts]
    if tensors := [q for q in activations if isinstance(q, Tensor)]:
        return torch.cat(tensors)
    top_k = [q for q in activations if isinstance(q, TopKActivations)]
    starts = accumulate((len(part.images) for part in parts[:-1]), initial=0)
    renumbered = [
        q.renumbered(torch.arange(len(part.images)) + start, len(part.images))
        for q, part, start in zip(top_k, parts, starts, strict=True)
    ]
    k = len(top_k[0].distinct)
    return reduce(lambda merged, part: merged.merged(part, k), renumbered)
