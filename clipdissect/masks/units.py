"""Masks of units as bits, from a layer's maps and its units' thresholds in one pass."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64

from clipdissect.capture.capture import check_still_readable
from clipdissect.capture.maps import activation_maps
from clipdissect.capture.output_layout import Reading
from clipdissect.capture.settings import Settings
from clipdissect.masks.kernels import upsample_and_threshold
from clipdissect.masks.layout import Layout, first_entries
from clipdissect.masks.thresholds import Thresholds, interpolation_inputs, sparse_inputs
from clipdissect.probe import Probe
from clipdissect.store import Entry
from clipdissect.targets import Target


class ActiveWords(NamedTuple):
    """Unit, word and bits of every word with a bit set, in the images' order."""

    unit: Int[np.ndarray, " n"]
    word: Int[np.ndarray, " n"]
    bits: UInt64[np.ndarray, " n"]

    def entry(self, layer: str, units: range) -> Entry:
        """Return the masks of some units for the store."""
        chosen = (self.unit >= units.start) & (self.unit < units.stop)
        unit, word, bits = self.unit[chosen] - units.start, self.word[chosen], self.bits[chosen]
        order = np.argsort(unit, kind="stable")
        arrays = {
            "starts": first_entries(unit, len(units)),
            "words": word[order].astype(np.int64),
            "bits": bits[order].view(np.int64),
        }
        tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
        about = {"what": f"unit masks of {layer}", "layer": layer, "first": units.start}
        return Entry(tensors, about)


@dataclass(frozen=True)
class UnitMasks:
    """Masks of the units of a layer from `first` on: their words with a bit set."""

    first: int
    starts: Int[np.ndarray, " units_and_one"]  # each unit's first position in `words`
    words: Int[np.ndarray, " n"]  # numbers in the layout, ascending per unit
    bits: UInt64[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def images(self, layout: Layout) -> Int[np.ndarray, " units"]:
        """Count the images in which each unit is active."""
        unit = np.repeat(np.arange(len(self)), np.diff(self.starts))
        image = layout.images_of(self.words)
        first = np.ones(len(image), dtype=bool)
        first[1:] = (image[1:] != image[:-1]) | (unit[1:] != unit[:-1])
        return np.bincount(unit[first], minlength=len(self))


def compute_unit_masks(
    target: Target,
    probe: Probe,
    settings: Settings,
    layout: Layout,
    thresholds: Mapping[str, Thresholds],
    wanted: Mapping[str, range],
    readings: Mapping[str, Reading],
    skipped: Collection[int] = (),
) -> dict[str, ActiveWords]:
    """Compute the masks of the wanted units per layer in one pass over the probe.

    Raises: DissectError for an unreadable image, unless it was `skipped` by the thresholds.
    """
    parts: dict[str, list[ActiveWords]] = {layer: [] for layer in wanted}
    for maps in activation_maps(target, list(wanted), probe, settings, readings):
        unreadable = {error.image: error.reason for error in maps.skipped}
        check_still_readable(probe.images, dict.fromkeys(wanted, skipped), unreadable)
        for layer, values in maps.layers.items():
            first, units = wanted[layer].start, slice(wanted[layer].start, wanted[layer].stop)
            unit_maps, above = interpolation_inputs(
                values[:, units].transpose(0, 1).cpu().numpy(),
                thresholds[layer].values[units].numpy(),
                thresholds[layer].saturated[units].numpy(),
            )
            if layer in target.saes:
                unit_maps, above = sparse_inputs(unit_maps, above)
            words = _batch_words(maps.images.numpy(), unit_maps.swapaxes(0, 1), above, layout)
            parts[layer] += [batch._replace(unit=batch.unit + first) for batch in words]
    return {
        layer: ActiveWords(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))
        for layer, batches in parts.items()
    }


def _batch_words(
    images: Int[np.ndarray, " images"],
    maps: Float[np.ndarray, "images units h w"],
    thresholds: Float[np.ndarray, " units"],
    layout: Layout,
) -> list[ActiveWords]:
    """Return the active words of a batch, in runs of images of equal size."""
    batches = []
    sizes = np.array([layout.sizes[i] for i in images])
    # Interpolated values lie between their neighbours, so none exceeds the map's maximum.
    active = maps.max(axis=(2, 3)) > thresholds
    bounds = [0, *((sizes[1:] != sizes[:-1]).any(1).nonzero()[0] + 1).tolist(), len(images)]
    for start, stop in itertools.pairwise(bounds):
        row, unit = active[start:stop].nonzero()
        active_maps = np.ascontiguousarray(maps[start + row, unit])
        size = int(sizes[start, 0]), int(sizes[start, 1])
        masks = upsample_and_threshold(active_maps, thresholds[unit], size)
        place, word = masks.nonzero()
        offset = layout.starts[images[start + row[place]]]
        batches.append(ActiveWords(unit[place], offset + word, masks[place, word]))
    return batches
