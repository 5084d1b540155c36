"""Active regions of the top images: activation maps, thresholds and outlines."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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
ABOVE = 0.005  # share of positions above the threshold
FINEST = 28  # stored positions per side of a map
SAMPLE = 200  # images for the threshold
BOX = 100  # coordinates of outlines are integers from 0 to this
TENSORS = ("maps", "thresholds", "lowest", "highest")  # fields of `Regions` in the store


@dataclass(frozen=True)
class Regions:
    """A layer's activation maps on its units' top images.

    `maps` have at most 28 x 28 positions, max-pooled if finer; NaN for images not run again.
    `lowest` and `highest` bound the activations on the images run. `images` is the sample size
    for `thresholds`; 0 if they are the method's own.
    """

    maps: Float[Tensor, "units slots h w"]
    thresholds: Float[Tensor, " units"]
    lowest: Float[Tensor, " units"]
    highest: Float[Tensor, " units"]
    images: int

    def as_firing(self) -> tuple[Float[np.ndarray, "units slots h w"], Float[np.ndarray, " units"]]:
        """Return maps and thresholds of the active positions, also for saturated units."""
        saturated = is_saturated(self.thresholds, self.lowest, self.highest)
        return interpolation_inputs(self.maps.numpy(), self.thresholds.numpy(), saturated.numpy())


class RegionAccumulator:
    """Accumulates a layer's maps and largest values, batch by batch; image -1 means none."""

    def __init__(self, top_images: Int[Tensor, "units slots"], sample_size: int) -> None:
        units = len(top_images)
        self.top_images, self.sample_size, self.positions = top_images, sample_size, 0
        self.maps: Tensor | None = None
        self.largest = torch.empty(units, 0, dtype=torch.float32)
        self.lowest = torch.full((units,), torch.inf, dtype=torch.float32)
        self.highest = -self.lowest
        self.generator = torch.Generator().manual_seed(0)

    def add(
        self,
        images: Int[Tensor, " batch"],
        maps: Float[Tensor, "batch units h w"],
        is_sampled: Bool[Tensor, " batch"],
    ) -> None:
        self._update_largest(maps[is_sampled])
        self.lowest = torch.minimum(self.lowest, maps.amin((0, 2, 3)))
        self.highest = torch.maximum(self.highest, maps.amax((0, 2, 3)))
        sides = [min(side, FINEST) for side in maps.shape[2:]]
        pooled = F.adaptive_max_pool2d(maps, sides)
        if self.maps is None:
            self.maps = torch.full((*self.top_images.shape, *sides), torch.nan, dtype=torch.float32)
        for row, image in enumerate(images.tolist()):
            units, slots = (self.top_images == image).nonzero(as_tuple=True)
            self.maps[units, slots] = pooled[row, units]

    def threshold(self) -> Float[Tensor, " units"]:
        """Return the 99.5 % quantile over the sampled positions, as in Network Dissection.

        It is estimated from a random sample of the probe, because the exact quantile would need
        a second pass and top images would bias it upwards.
        """
        return self.largest[:, int(ABOVE * self.positions)]

    def _update_largest(self, maps: Float[Tensor, "batch units h w"]) -> None:
        values = maps.flatten(2)
        if values.shape[2] > FINEST**2:
            sampled = torch.randperm(values.shape[2], generator=self.generator)[: FINEST**2]
            values = values[:, :, sampled]
        self.positions += values.shape[0] * values.shape[2]
        count = int(ABOVE * self.sample_size * values.shape[2]) + 1
        candidates = torch.cat([self.largest, values.transpose(0, 1).flatten(1)], 1)
        self.largest = candidates.topk(min(count, candidates.shape[1]), 1).values


def find_regions(
    target: Target,
    probe: Probe,
    settings: Settings,
    top_images: pd.DataFrame,
    limit: int,
    store: Store | None,
) -> dict[str, Regions]:
    """Compute the regions of layers with maps on at most `limit` images, or read the store."""
    if limit < 1 or top_images.empty:
        return {}
    key = _key(target, probe, settings, top_images, limit)
    entry = store.get(key) if store else None
    if entry is None:
        entry = _entry(_compute(target, probe, settings, top_images, limit))
        if store is not None:
            with store.locked([key]):
                store.put(key, entry)
    return {
        layer: Regions(**{name: entry.arrays[f"{name} {layer}"] for name in TENSORS}, images=images)
        for layer, images in entry.about["layers"].items()
    }


def choose_images(
    top_images: pd.DataFrame, images: Sequence[str], limit: int
) -> tuple[list[int], list[int]]:
    """Return the sorted numbers of the images to run, and of the random sample among them.

    At most 200 of the `limit` images, and at most half, are random; the others are top images
    by rank, those shared by most units first.
    """
    numbers = {name: i for i, name in enumerate(images)}
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    sample = shuffled[: min(SAMPLE, max(1, limit // 2))]
    counts = top_images.groupby(["rank", "image"], sort=False).size().reset_index(name="units")
    ordered = counts.sort_values(["rank", "units"], ascending=[True, False], kind="stable")
    chosen = dict.fromkeys([*sample, *(numbers[name] for name in ordered["image"])])
    return sorted(list(chosen)[:limit]), sorted(sample)


def _compute(
    target: Target, probe: Probe, settings: Settings, top_images: pd.DataFrame, limit: int
) -> dict[str, Regions]:
    readings = _layers_with_maps(target, settings, list(top_images["layer"].unique()))
    if not readings:
        return {}
    chosen, sample = choose_images(top_images, probe.images, limit)
    rows = {str(layer): rows for layer, rows in top_images.groupby("layer", sort=False)}
    accumulators = {
        layer: RegionAccumulator(_image_numbers(rows[layer], probe), len(sample))
        for layer in readings
    }
    log.info("report: running the target on %d images again for regions", len(chosen))
    numbers, sampled = torch.tensor(chosen), torch.tensor(sample)
    used = 0
    batches = activation_maps(target, list(readings), probe.subset(chosen), settings, readings)
    for batch in batches:
        images = numbers[batch.images]
        is_sampled = torch.isin(images, sampled)
        used += int(is_sampled.sum())
        for layer, maps in batch.layers.items():
            accumulators[layer].add(images, maps.cpu(), is_sampled)
    return {
        layer: Regions(
            layer_maps.maps, layer_maps.threshold(), layer_maps.lowest, layer_maps.highest, used
        )
        for layer, layer_maps in accumulators.items()
        if layer_maps.maps is not None and layer_maps.positions
    }


def _layers_with_maps(
    target: Target, settings: Settings, layers: Sequence[str]
) -> dict[str, Reading]:
    """Return how to read the layers whose outputs have positions in a grid."""
    try:
        with on_device(target.model, settings.torch_device):
            trial = try_out(target, layers)
    except DissectError as error:
        log.info("report: no regions: %s", error)
        return {}
    readings = {}
    for layer in layers:
        try:
            reading = trial.read(layer, of_maps(settings))
        except DissectError as error:
            log.info("report: no regions of %s: %s", layer, error)
            continue
        if reading.grid is not None and reading.grid != (1, 1):
            readings[layer] = reading
    return readings


def _image_numbers(rows: pd.DataFrame, probe: Probe) -> Int[Tensor, "units slots"]:
    position = {name: i for i, name in enumerate(probe.images)}
    table = torch.full((int(rows["unit"].max()) + 1, int(rows["rank"].max())), -1)
    numbers = torch.tensor([position[name] for name in rows["image"]])
    table[torch.tensor(rows["unit"].tolist()), torch.tensor(rows["rank"].tolist()) - 1] = numbers
    return table


def _key(
    target: Target, probe: Probe, settings: Settings, top_images: pd.DataFrame, limit: int
) -> str:
    images = top_images[["layer", "unit", "rank", "image"]].to_csv(errors="backslashreplace")
    return hashing.hash_values(
        "report regions",
        VERSION,
        torch.__version__,
        target.digest,
        target.preprocess_digest,
        probe.digest,
        settings.numeric,
        settings.summary.layout,
        READING_VERSION,
        hashing.hash_values(images),
        limit,
        SAMPLE,
        FINEST,
    )


def _entry(regions: dict[str, Regions]) -> Entry:
    arrays = {"none": torch.zeros(1, dtype=torch.float32)}  # an entry needs at least one array
    for layer, values in regions.items():
        arrays |= {f"{name} {layer}": getattr(values, name) for name in TENSORS}
    images = {layer: values.images for layer, values in regions.items()}
    return Entry(arrays, {"what": "regions for reports", "layers": images})


def outline(values: Float[np.ndarray, "h w"], threshold: float) -> str:
    """Return the outline of where a map exceeds a threshold, as an SVG path in a 100 x 100 box.

    The map is interpolated linearly and extended to the edges; holes are subpaths (`evenodd`).
    """
    from contourpy import FillType, contour_generator

    if not values.max() > threshold:
        return ""
    height, width = values.shape
    padded = np.pad(values, 1, mode="edge")
    contours = contour_generator(
        _coordinates(width), _coordinates(height), padded, fill_type=FillType.OuterOffset
    )
    # The region must exceed the threshold, and contourpy includes its lower level.
    above = float(np.nextafter(np.float64(threshold), np.inf))
    filled = contours.filled(above, float(values.max()) + 1)
    parts: list[str] = []
    for points, starts in zip(filled[0], filled[1], strict=True):
        assert points is not None and starts is not None  # None for chunked contours only
        parts += [_closed_path(points[start:stop]) for start, stop in pairwise(starts)]
    return "".join(parts)


def _coordinates(count: int) -> Float[np.ndarray, " points"]:
    """Return the positions' centres, and both edges."""
    centres = (np.arange(count) + 0.5) / count
    return np.concatenate([[0.0], centres, [1.0]]) * BOX


def _closed_path(points: Float[np.ndarray, "points 2"]) -> str:
    """Return a closed subpath in integers, without collinear points; empty if degenerate."""
    points = np.rint(points[:-1]).astype(int)
    points = points[(points != np.roll(points, 1, axis=0)).any(1)]
    before = points - np.roll(points, 1, axis=0)
    after = np.roll(points, -1, axis=0) - points
    corners = points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    if len(corners) < 3:
        return ""
    return "M" + "L".join(f"{x} {y}" for x, y in corners) + "Z"
