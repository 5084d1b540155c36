"""What a capture gives: activations and embeddings that are read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.capture.activations import Activations, TopKActivations
from clipdissect.capture.output_layout import Reading
from clipdissect.probe import Probe


class LazyActivations(Mapping[str, Activations]):
    """Layer to activations, read from the store when asked for and not held.

    Args:
        readers: layer to what reads it.
    """

    def __init__(self, readers: Mapping[str, Callable[[], Activations]]) -> None:
        self.readers = dict(readers)

    def __getitem__(self, layer: str) -> Activations:
        return self.readers[layer]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.readers)

    def __len__(self) -> int:
        return len(self.readers)


@dataclass(frozen=True)
class CapturedFeatures:
    """What a probe looks like to the target and to the encoder.

    Args:
        images: names of the readable images, in order.
        activations: layer to `q [images, units]`, float32, or to its running top images.
        read_embeds: reads the image embeddings from the store, where there are any.
        skipped: names of unreadable images, with the reason.
        computed: which arrays were computed now (the others came from the store).
        digests: of the target, the encoder and the images.
        holder: keeps a temporary store alive.
        seconds: spent on `digests` of the networks, waiting for images (`decode`), `forward`.
        readings: layer to how its output was read.
        notes: warnings to record with the results, such as those of `randomness.notes`.
    """

    images: tuple[str, ...]
    activations: Mapping[str, Activations]
    read_embeds: Callable[[], Float[Tensor, "images dims"]]
    skipped: dict[str, str]
    computed: tuple[str, ...]
    digests: dict[str, str]
    holder: Any = field(default=None, repr=False)
    seconds: dict[str, float] = field(default_factory=dict)
    readings: Mapping[str, Reading] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def image_embeds(self) -> Float[Tensor, "images dims"]:
        """`I [images, dims]`, float32, unit rows; read from the store and not held."""
        return self.read_embeds()


def joined(probe: Probe, parts: Sequence[CapturedFeatures]) -> CapturedFeatures:
    """What a union looks like, from what its parts do.

    Args:
        probe: the union.
        parts: captured from `probe.parts`, in order.
    """
    starts = list(accumulate((len(part) for part in probe.parts), initial=0))
    names = [
        dict(zip(part.images, probe.images[start : start + len(part)], strict=True))
        for part, start in zip(probe.parts, starts, strict=False)
    ]
    pairs = list(zip(parts, names, strict=True))
    return CapturedFeatures(
        images=tuple(own[image] for part, own in pairs for image in part.images),
        activations=LazyActivations(
            {layer: _joiner(layer, parts) for layer in parts[0].activations}
        ),
        read_embeds=lambda: torch.cat([part.image_embeds for part in parts]),
        skipped={own[image]: why for part, own in pairs for image, why in part.skipped.items()},
        computed=tuple(dict.fromkeys(name for part in parts for name in part.computed)),
        digests={**parts[0].digests, "images": probe.digest},
    )


def _joiner(layer: str, parts: Sequence[CapturedFeatures]) -> Callable[[], Activations]:
    def read() -> Activations:
        found = [part.activations[layer] for part in parts]
        tensors = [q for q in found if not isinstance(q, TopKActivations)]
        if tensors:
            return torch.cat(tensors)
        kept = [q for q in found if isinstance(q, TopKActivations)]
        k = len(kept[0].distinct)
        starts = accumulate((len(part.images) for part in parts[:-1]), initial=0)
        moved = [
            q.renumbered(torch.arange(len(part.images)) + start, len(part.images))
            for q, part, start in zip(kept, parts, starts, strict=True)
        ]
        return reduce(lambda one, other: one.merged(other, k), moved)

    return read
