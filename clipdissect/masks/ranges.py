"""Ranges of a unit's activations by k-means, and their masks, a few units at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt64

from clipdissect.capture.capture import check_still_readable
from clipdissect.capture.maps import activation_maps
from clipdissect.masks.kernels import upsample_and_split
from clipdissect.masks.kmeans import clusters
from clipdissect.masks.layers import LayerMasks
from clipdissect.masks.units import UnitMasks

AT_ONCE = 64e6  # bytes of unpacked masks in memory together


@dataclass(frozen=True)
class Range:
    """A range of a unit's activations, ends included."""

    unit: int
    number: int  # from 1, the highest range first
    lower: float
    upper: float
    share: float  # of the unit's clustered activations


@dataclass(frozen=True)
class RangeMasks:
    """Some ranges, and their masks: those of `ranges[i]` are unit `i` of `masks`."""

    ranges: list[Range]
    masks: UnitMasks


class _Words(NamedTuple):
    """Words with a bit set, and their bits, of one range."""

    word: Int[np.ndarray, " n"]
    bits: UInt64[np.ndarray, " n"]


def activation_ranges(unit: int, values: Float[np.ndarray, "..."], count: int) -> list[Range]:
    """Return up to `count` ranges of a unit's activations, the highest first.

    A range goes from the smallest to the largest activation of a cluster of k-means. If no
    activation is negative, zeros are in no range.
    Source: La Rosa et al., "Towards a fuller understanding of neurons with Clustered Compositional
    Explanations", NeurIPS 2023. There the ends don't belong to the range, which would
    leave out the cap of a ReLU6, and ranges of one activation; here they do.
    """
    ordered = np.sort(values, axis=None)
    if ordered[0] >= 0:
        ordered = ordered[np.searchsorted(ordered, 0, side="right") :]
    starts = clusters(ordered, count).tolist()
    return [
        Range(unit, number, float(ordered[a]), float(ordered[b - 1]), (b - a) / len(ordered))
        for number, (a, b) in enumerate(zip(starts[-2::-1], starts[:0:-1], strict=True), 1)
    ]


def range_masks(
    active: LayerMasks, layer: str, count: int, bytes_per_word: int
) -> Iterator[RangeMasks]:
    """Yield the masks of the ranges of a layer's live units, as many ranges as fit the memory.

    Half of `active.memory` is for activations, of all images and as many units as fit: other units
    take another pass of the network. The other half is for masks; `bytes_per_word` is what the
    caller needs per word with a bit set.
    Raises: DissectError for an image that has become unreadable.
    """
    remaining = (~active.thresholds[layer].dead.numpy()).nonzero()[0]
    ranges: list[Range] = []
    words: list[_Words] = []
    while len(remaining):
        maps = _maps(active, layer, remaining)
        for unit, unit_maps in zip(remaining.tolist(), maps, strict=False):
            own = activation_ranges(unit, unit_maps, count)
            for one, mask in zip(own, _masks(unit_maps, own, active), strict=True):
                filled = sum(len(w.word) for w in words) + len(mask.word)
                if words and filled * bytes_per_word > active.memory / 2:
                    yield _together(ranges, words)
                    ranges, words = [], []
                ranges.append(one)
                words.append(mask)
        remaining = remaining[len(maps) :]
        del maps, unit_maps  # before the next are allocated
    if words:
        yield _together(ranges, words)


def _maps(
    active: LayerMasks, layer: str, units: Int[np.ndarray, " units"]
) -> Float[np.ndarray, "some images h w"]:
    """Return the maps of the first of these units, as many as fit half of the memory."""
    images = np.array(active.images)
    maps: Float[np.ndarray, "some images h w"] | None = None
    arguments = [layer], active.probe, active.settings, active.readings([layer])
    for batch in activation_maps(active.target, *arguments):
        unreadable = {error.image: error.reason for error in batch.skipped}
        check_still_readable(active.probe.images, {layer: active.skipped}, unreadable)
        if layer not in batch.layers:
            continue
        values = batch.layers[layer]
        if maps is None:
            height, width = values.shape[2:]
            some = max(1, int(active.memory / 2 / (4 * len(images) * height * width)))
            maps = np.empty((len(units[:some]), len(images), height, width), dtype=np.float32)
        rows = np.searchsorted(images, batch.images.numpy())
        maps[:, rows] = values[:, units[: len(maps)]].transpose(0, 1).cpu().numpy()
    assert maps is not None  # a live unit has varied on images that are still readable
    return maps


def _masks(
    maps: Float[np.ndarray, "images h w"], ranges: list[Range], active: LayerMasks
) -> list[_Words]:
    """Return the masks of a unit's ranges, in the layout of all images."""
    if not ranges:
        return []
    lower, upper = (
        np.array([getattr(r, end) for r in ranges], dtype=np.float32) for end in ("lower", "upper")
    )
    images, layout = np.array(active.images), active.layout
    sizes = np.array(layout.sizes)[images]
    parts: list[list[_Words]] = [[] for _ in ranges]
    for size in np.unique(sizes, axis=0).tolist():
        same_size = np.flatnonzero((sizes == size).all(1))
        step = max(1, int(AT_ONCE / (len(ranges) * size[0] * size[1] / 8)))
        for start in range(0, len(same_size), step):
            chosen = same_size[start : start + step]
            masks = upsample_and_split(maps[chosen], lower, upper, (size[0], size[1]))
            for part, mask in zip(parts, masks, strict=True):
                place, word = mask.nonzero()
                numbers = layout.starts[images[chosen[place]]] + word
                part.append(_Words(numbers, mask[place, word]))
    return [_ascending(part) for part in parts]


def _ascending(parts: list[_Words]) -> _Words:
    word = np.concatenate([part.word for part in parts])
    bits = np.concatenate([part.bits for part in parts])
    if len(parts) == 1:
        return _Words(word, bits)
    order = np.argsort(word)
    return _Words(word[order], bits[order])


def _together(ranges: list[Range], words: list[_Words]) -> RangeMasks:
    starts = np.concatenate([[0], np.cumsum([len(w.word) for w in words])]).astype(np.int64)
    word, bits = (np.concatenate([getattr(w, name) for w in words]) for name in ("word", "bits"))
    return RangeMasks(ranges, UnitMasks(0, starts, word, bits))
