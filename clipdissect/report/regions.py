"""Where in its top images a unit fires: its maps there, and its threshold.

The threshold is a unit's 99.5 % quantile over positions, as in Network Dissection (Bau et al.,
CVPR 2017). That of all images would need a second pass over all: it is estimated from images drawn
at random from the whole probe, never from the top images, where activations are higher.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from clipdissect.capture.infer_layout import try_out
from clipdissect.capture.maps import activation_maps, of_maps
from clipdissect.capture.networks import on_device
from clipdissect.capture.output_layout import READING_VERSION, Reading
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.masks.thresholds import interpolation_inputs, is_saturated
from clipdissect.probe import Probe
from clipdissect.store import Entry, Store
from clipdissect.targets import Target
from clipdissect.utils import hashing

log = logging.getLogger(__name__)

VERSION = 2  # raise it when the numbers change
ABOVE = 0.005  # of the positions are above the threshold
FINEST = 28  # positions a side that are kept of a map
SAMPLE = 200  # images for the threshold
PARTS = ("maps", "thresholds", "lowest", "highest")  # of `Regions`, as the store keeps them


@dataclass(frozen=True)
class Regions:
    """A layer's maps of its units' top images.

    Args:
        maps: `[units, slots, h, w]`, at most 28 x 28 positions, of a finer map the largest value of
            each cell; NaN for an image that the network wasn't shown again.
        thresholds: `[units]`.
        lowest, highest: of the activations of the images that the network was shown, `[units]`.
        images: how many random images the thresholds are from; 0 where they are the method's own.
    """

    maps: Float[Tensor, "units slots h w"]
    thresholds: Float[Tensor, " units"]
    lowest: Float[Tensor, " units"]
    highest: Float[Tensor, " units"]
    images: int

    def as_firing(self) -> tuple[Float[np.ndarray, "units slots h w"], Float[np.ndarray, " units"]]:
        """Maps and thresholds that say where units fire, also where they are saturated."""
        saturated = is_saturated(self.thresholds, self.lowest, self.highest)
        return interpolation_inputs(self.maps.numpy(), self.thresholds.numpy(), saturated.numpy())


class Gathered:
    """One layer's maps and largest values, batch by batch.

    Args:
        shown: each unit's top images by number, -1 for none, `[units, slots]`.
        sampled: how many images the threshold is taken from.
        seed: of the positions that are drawn from maps finer than 28 x 28.
    """

    def __init__(self, shown: Int[Tensor, "units slots"], sampled: int, seed: int = 0) -> None:
        self.shown, self.sampled, self.positions = shown, sampled, 0
        self.maps: Tensor | None = None
        self.largest = torch.empty(len(shown), 0, dtype=torch.float32)
        self.lowest = torch.full((len(shown),), torch.inf, dtype=torch.float32)
        self.highest = -self.lowest
        self.generator = torch.Generator().manual_seed(seed)

    def add(
        self, images: Int[Tensor, " batch"], maps: Float[Tensor, "batch units h w"],
        is_sampled: Bool[Tensor, " batch"],
    ) -> None:  # fmt: skip
        """Take what is wanted of a batch's maps."""
        self._count(maps[is_sampled])
        self.lowest = torch.minimum(self.lowest, maps.amin((0, 2, 3)))
        self.highest = torch.maximum(self.highest, maps.amax((0, 2, 3)))
        sides = [min(side, FINEST) for side in maps.shape[2:]]
        pooled = F.adaptive_max_pool2d(maps, sides)
        if self.maps is None:
            self.maps = torch.full((*self.shown.shape, *sides), torch.nan, dtype=torch.float32)
        for row, image in enumerate(images.tolist()):
            units, slots = (self.shown == image).nonzero(as_tuple=True)
            self.maps[units, slots] = pooled[row, units]

    def threshold(self) -> Float[Tensor, " units"]:
        """The value that a share of 0.5 % of the sampled positions exceeds, at most."""
        return self.largest[:, int(ABOVE * self.positions)]

    def _count(self, maps: Float[Tensor, "batch units h w"]) -> None:
        values = maps.flatten(2)
        if values.shape[2] > FINEST**2:
            places = torch.randperm(values.shape[2], generator=self.generator)[: FINEST**2]
            values = values[:, :, places]
        self.positions += values.shape[0] * values.shape[2]
        most = int(ABOVE * self.sampled * values.shape[2]) + 1
        both = torch.cat([self.largest, values.transpose(0, 1).flatten(1)], 1)
        self.largest = both.topk(min(most, both.shape[1]), 1).values


def find_regions(
    target: Target, probe: Probe, settings: Settings, top_images: pd.DataFrame, most: int,
    store: Store | None,
) -> dict[str, Regions]:  # fmt: skip
    """Regions of the layers that have maps, from the store where it has them.

    Args:
        target: the network.
        probe: the images.
        settings: how to run the network.
        top_images: `layer, unit, rank, image`, with as many ranks as are to be shown.
        most: images that the network is shown again, see `plan`; 0 for none.
        store: keeps the result; None keeps it nowhere.

    Raises:
        DissectError: the network fails.
    """
    if most < 1 or top_images.empty:
        return {}
    key = _key(target, probe, settings, top_images, most)
    found = store.get(key) if store else None
    if found is None:
        entry = _entry(_computed(target, probe, settings, top_images, most))
        if store is None:
            return _regions(entry)
        with store.locked([key]):
            store.put(key, entry)
        return _regions(entry)
    return _regions(found)


def plan(
    top_images: pd.DataFrame, images: Sequence[str], most: int, seed: int = 0
) -> tuple[list[int], list[int]]:
    """The images to run: random ones of the whole probe, and top ones.

    Args:
        top_images: `rank, image` of the units.
        images: the probe's names.
        most: in all; up to 200, and half of them, are random. Of the top images the best ranks come
            first, of a rank those that most units share.
        seed: of the random ones.

    Returns:
        Numbers of all images, and of the random ones; both sorted.
    """
    places = {name: i for i, name in enumerate(images)}
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn = shuffled[: min(SAMPLE, max(1, most // 2))]
    counts = top_images.groupby(["rank", "image"], sort=False).size().reset_index(name="units")
    ordered = counts.sort_values(["rank", "units"], ascending=[True, False], kind="stable")
    numbers = dict.fromkeys([*drawn, *(places[name] for name in ordered["image"])])
    return sorted(list(numbers)[:most]), sorted(drawn)


def _computed(
    target: Target, probe: Probe, settings: Settings, top_images: pd.DataFrame, most: int
) -> dict[str, Regions]:
    layers = _with_maps(target, settings, list(top_images["layer"].unique()))
    if not layers:
        return {}
    numbers, drawn = plan(top_images, probe.images, most)
    sampled = torch.tensor(drawn)
    tables = {str(layer): rows for layer, rows in top_images.groupby("layer", sort=False)}
    gathered = {layer: Gathered(_shown(tables[layer], probe), len(drawn)) for layer in layers}
    log.info("report: the target is shown %d images again for regions", len(numbers))
    kept, used = torch.tensor(numbers), 0
    for batch in activation_maps(target, list(layers), probe.subset(numbers), settings, layers):
        images = kept[batch.images]
        is_sampled = torch.isin(images, sampled)
        used += int(is_sampled.sum())
        for layer, maps in batch.layers.items():
            gathered[layer].add(images, maps.cpu(), is_sampled)
    return {
        layer: Regions(own.maps, own.threshold(), own.lowest, own.highest, used)
        for layer, own in gathered.items() if own.maps is not None and own.positions
    }  # fmt: skip


def _with_maps(target: Target, settings: Settings, layers: Sequence[str]) -> dict[str, Reading]:
    """The layers whose outputs have positions in a grid, with how these are read."""
    try:
        with on_device(target.model, settings.torch_device):
            trial = try_out(target, layers)
    except DissectError as error:
        log.info("report: no regions: %s", error)
        return {}
    found = {}
    for layer in layers:
        try:
            reading = trial.read(layer, of_maps(settings))
        except DissectError as error:
            log.info("report: no regions of %s: %s", layer, error)
            continue
        if reading.grid is not None and reading.grid != (1, 1):
            found[layer] = reading
    return found


def _shown(rows: pd.DataFrame, probe: Probe) -> Int[Tensor, "units slots"]:
    """Numbers of each unit's top images."""
    places = {name: i for i, name in enumerate(probe.images)}
    shown = torch.full((int(rows["unit"].max()) + 1, int(rows["rank"].max())), -1)
    numbers = torch.tensor([places[name] for name in rows["image"]])
    shown[torch.tensor(rows["unit"].tolist()), torch.tensor(rows["rank"].tolist()) - 1] = numbers
    return shown


def _key(
    target: Target, probe: Probe, settings: Settings, top_images: pd.DataFrame, most: int
) -> str:
    shown = top_images[["layer", "unit", "rank", "image"]].to_csv(errors="backslashreplace")
    return hashing.hash_values(
        "report regions", VERSION, torch.__version__, hashing.hash_model(target.model),
        hashing.hash_transform(target.preprocess), probe.digest, settings.numeric,
        settings.summary.layout, READING_VERSION, hashing.hash_values(shown), most, SAMPLE, FINEST,
    )  # fmt: skip


def _entry(found: dict[str, Regions]) -> Entry:
    arrays = {"none": torch.zeros(1, dtype=torch.float32)}
    for layer, own in found.items():
        arrays |= {f"{name} {layer}": getattr(own, name) for name in PARTS}
    images = {layer: own.images for layer, own in found.items()}
    return Entry(arrays, {"what": "regions for reports", "layers": images})


def _regions(entry: Entry) -> dict[str, Regions]:
    return {
        layer: Regions(**{name: entry.arrays[f"{name} {layer}"] for name in PARTS}, images=images)
        for layer, images in entry.about["layers"].items()
    }
