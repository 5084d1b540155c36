"""Where units fire, as bits: from a layer's maps and its units' levels, in one pass."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64

from clipdissect.capture.capture import check_still_readable
from clipdissect.capture.maps import activation_maps
from clipdissect.capture.output_layout import Reading
from clipdissect.capture.settings import Settings
from clipdissect.masks.kernels import stretch
from clipdissect.masks.layout import Layout
from clipdissect.masks.levels import Levels, as_firing
from clipdissect.probe import Probe
from clipdissect.store import Entry
from clipdissect.targets import Target

Firing = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"], UInt64[np.ndarray, " _"]]


@dataclass(frozen=True)
class UnitMasks:
    """Where some units of a layer fire: their words with a bit set.

    Args:
        first: number of the first unit.
        starts: each unit's first place in `words`.
        words: numbers of words in the layout, ascending for each unit.
        bits: the words.
    """

    first: int
    starts: Int[np.ndarray, " units_and_one"]
    words: Int[np.ndarray, " n"]
    bits: UInt64[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def images(self, layout: Layout) -> Int[np.ndarray, " units"]:
        """In how many images each unit fires."""
        unit = np.repeat(np.arange(len(self)), np.diff(self.starts))
        image = layout.images_of(self.words)
        first = np.ones(len(image), dtype=bool)
        first[1:] = (image[1:] != image[:-1]) | (unit[1:] != unit[:-1])
        return np.bincount(unit[first], minlength=len(self))


def fire(
    target: Target, probe: Probe, settings: Settings, layout: Layout,
    levels: Mapping[str, Levels], wanted: Mapping[str, range], readings: Mapping[str, Reading],
    skipped: Collection[int] = (),
) -> dict[str, Firing]:  # fmt: skip
    """Where units of some layers fire: unit, word and bits of every word with a bit set.

    Args:
        target, probe, settings: the network, the images and how to run.
        layout: of the masks.
        levels: of all units of the layers.
        wanted: layer to its units of interest.
        readings: how these layers' outputs are read as maps.
        skipped: images that couldn't be read for the levels.

    Returns:
        Of each layer, in the images' order.

    Raises:
        DissectError: another image can't be read.
    """
    parts: dict[str, list[Firing]] = {layer: [] for layer in wanted}
    for maps in activation_maps(target, list(wanted), probe, settings, readings):
        unreadable = {error.image: error.reason for error in maps.skipped}
        check_still_readable(probe.images, dict.fromkeys(wanted, skipped), unreadable)
        for layer, values in maps.layers.items():
            units = slice(wanted[layer].start, wanted[layer].stop)
            own, saturated = levels[layer].levels[units], levels[layer].saturated[units]
            fires, above = as_firing(
                values[:, units].transpose(0, 1).cpu().numpy(), own.numpy(), saturated.numpy()
            )
            found = _of_batch(maps.images.numpy(), fires.swapaxes(0, 1), above, layout)
            parts[layer] += [(unit + units.start, word, bits) for unit, word, bits in found]
    return {layer: _joined(own) for layer, own in parts.items()}


def _joined(parts: list[Firing]) -> Firing:
    unit, word, bits = (np.concatenate(each) for each in zip(*parts, strict=True))
    return unit, word, bits


def _of_batch(
    images: Int[np.ndarray, " images"], values: Float[np.ndarray, "images units h w"],
    levels: Float[np.ndarray, " units"], layout: Layout,
) -> list[Firing]:  # fmt: skip
    """Unit, word and bits of a batch's firing, image by image where sizes differ."""
    found = []
    sizes = np.array([layout.sizes[i] for i in images])
    # Interpolated values lie between their neighbours: nothing rises above a map's largest.
    fires = values.max(axis=(2, 3)) > levels
    bounds = [0, *((sizes[1:] != sizes[:-1]).any(1).nonzero()[0] + 1).tolist(), len(images)]
    for start, stop in itertools.pairwise(bounds):
        row, unit = fires[start:stop].nonzero()
        maps = np.ascontiguousarray(values[start + row, unit])
        masks = stretch(maps, levels[unit], (int(sizes[start, 0]), int(sizes[start, 1])))
        place, word = masks.nonzero()
        offset = layout.starts[images[start + row[place]]]
        found.append((unit[place], offset + word, masks[place, word]))
    return found


def entry_of(
    unit: Int[np.ndarray, " n"], words: Int[np.ndarray, " n"], bits: UInt64[np.ndarray, " n"],
    units: int, about: Mapping[str, Any],
) -> Entry:  # fmt: skip
    """Units' masks as the store keeps them.

    Args:
        unit, words, bits: of `fire`, the units counted from 0.
        units: how many there are.
        about: facts on them; the layer among them.
    """
    order = np.argsort(unit, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(unit, minlength=units))])
    arrays = {"starts": starts.astype(np.int64), "words": words[order].astype(np.int64),
              "bits": bits[order].view(np.int64)}  # fmt: skip
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    return Entry(tensors, {"what": f"unit masks of {about['layer']}", **about})
