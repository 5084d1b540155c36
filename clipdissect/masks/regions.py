"""Active regions of the top images: activation maps and thresholds."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from clipdissect.capture.infer_layout import try_out
from clipdissect.capture.latents import LATENTS_VERSION
from clipdissect.capture.maps import activation_maps, of_maps
from clipdissect.capture.networks import on_device
from clipdissect.capture.output_layout import READING_VERSION, Reading
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.masks.thresholds import interpolation_inputs, is_saturated
from clipdissect.probe import Probe
from clipdissect.sae import Sae
from clipdissect.store import Entry, Store
from clipdissect.targets import Target
from clipdissect.utils import hashing

log = logging.getLogger(__name__)

VERSION = 2  # raise it when the numbers change
ABOVE = 0.005  # share of positions above the threshold
FINEST = 28  # stored positions per side of a map
SAMPLE = 200  # images for the threshold
TENSORS = ("maps", "thresholds", "lowest", "highest")  # fields of `Regions` in the store


@dataclass(frozen=True)
class Regions:
    """A layer's activation maps on its units' top images.

    `maps` have at most 28 x 28 positions, max-pooled if finer; NaN for images not run again.
    `lowest` and `highest` bound the activations on the images run, of latents those on the maps.
    `images` is the sample size for `thresholds`; 0 if they are the method's own; None for latents,
    which fire above 0.
    """

    maps: Float[Tensor, "units slots h w"]
    thresholds: Float[Tensor, " units"]
    lowest: Float[Tensor, " units"]
    highest: Float[Tensor, " units"]
    images: int | None

    @property
    def has_map(self) -> Bool[np.ndarray, "units slots"]:
        """Whether the network was run again on the image."""
        return ~self.maps[:, :, 0, 0].isnan().numpy()

    def as_firing(
        self,
    ) -> tuple[Shaped[np.ndarray, "units slots h w"], Float[np.ndarray, " units"]]:
        """Return maps and thresholds of the active positions, also for saturated units.

        Maps of latents are 1 where they fire: interpolated codes exceed 0 up to the centres of
        silent patches, but regions should end between the patches.
        """
        if self.images is None:
            return (self.maps > 0).numpy(), np.full(len(self.maps), 0.5)
        saturated = is_saturated(self.thresholds, self.lowest, self.highest).numpy()
        return interpolation_inputs(self.maps.float().numpy(), self.thresholds.numpy(), saturated)


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
        maps = maps.cpu()
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

    def regions(self, sampled: int) -> Regions | None:
        """Return the regions, with the number of sampled images; None if no image was readable."""
        if self.maps is None or not self.positions:
            return None
        return Regions(self.maps, self.threshold(), self.lowest, self.highest, sampled)

    def _update_largest(self, maps: Float[Tensor, "batch units h w"]) -> None:
        values = maps.flatten(2)
        if values.shape[2] > FINEST**2:
            sampled = torch.randperm(values.shape[2], generator=self.generator)[: FINEST**2]
            values = values[:, :, sampled]
        self.positions += values.shape[0] * values.shape[2]
        count = int(ABOVE * self.sample_size * values.shape[2]) + 1
        candidates = torch.cat([self.largest, values.transpose(0, 1).flatten(1)], 1)
        self.largest = candidates.topk(min(count, candidates.shape[1]), 1).values


class LatentRegionAccumulator:
    """Accumulates latents' codes on their top images: the maps of all would take gigabytes."""

    def __init__(self, top_images: Int[Tensor, "units slots"], sae: Sae) -> None:
        self.top_images, self.sae = top_images, sae
        self.maps: Tensor | None = None
        self.lowest = torch.full((len(top_images),), torch.inf, dtype=torch.float32)
        self.highest = -self.lowest

    @torch.no_grad()
    def add(
        self,
        images: Int[Tensor, " batch"],
        maps: Float[Tensor, "batch inputs h w"],
        is_sampled: Bool[Tensor, " batch"],
    ) -> None:
        """Encode the layer's own maps image by image."""
        sides = [min(side, FINEST) for side in maps.shape[2:]]
        if self.maps is None:
            shape = (*self.top_images.shape, *sides)
            # Half of the memory, and, unlike float16, no code above 0 becomes 0.
            self.maps = torch.full(shape, torch.nan, dtype=torch.bfloat16)
        for row, image in enumerate(images.tolist()):
            units, slots = (self.top_images == image).nonzero(as_tuple=True)
            if not len(units):
                continue
            codes = self.sae.encode(maps[row].flatten(1).T)[:, units.to(maps.device)].float().cpu()
            self.lowest[units] = torch.minimum(self.lowest[units], codes.amin(0))
            self.highest[units] = torch.maximum(self.highest[units], codes.amax(0))
            of_units = codes.T.reshape(-1, *maps.shape[2:])
            self.maps[units, slots] = F.adaptive_max_pool2d(of_units, sides).to(self.maps.dtype)

    def regions(self, sampled: int) -> Regions | None:
        """Return the regions; None if no image was readable."""
        if self.maps is None:
            return None
        return Regions(self.maps, torch.zeros_like(self.lowest), self.lowest, self.highest, None)


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
    top_images: pd.DataFrame, images: Sequence[str], limit: int, sample_size: int = SAMPLE
) -> tuple[list[int], list[int]]:
    """Return the sorted numbers of the images to run, and of the random sample among them.

    At most `sample_size` of the `limit` images, and at most half, are random; the others are top
    images by rank, those shared by most units first.
    """
    numbers = {name: i for i, name in enumerate(images)}
    shuffled = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    sample = shuffled[: min(sample_size, max(1, limit // 2))]
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
    saes = {layer: sae for layer, sae in target.saes.items() if layer in readings}
    sample_size = SAMPLE if readings.keys() - saes else 0  # latents need no quantile
    chosen, sample = choose_images(top_images, probe.images, limit, sample_size)
    accumulators = _accumulators(readings, saes, top_images, probe, len(sample))
    log.info("running the target on %d images again for regions", len(chosen))
    numbers, sampled = torch.tensor(chosen), torch.tensor(sample, dtype=torch.int64)
    used = 0
    parts = target.without_saes, list(readings), probe.subset(chosen), settings, readings
    with ExitStack() as stack:
        for sae in saes.values():
            stack.enter_context(on_device(sae.module, settings.torch_device))
        for batch in activation_maps(*parts):
            images = numbers[batch.images]
            is_sampled = torch.isin(images, sampled)
            used += int(is_sampled.sum())
            for layer, maps in batch.layers.items():
                accumulators[layer].add(images, maps, is_sampled)
    regions = {layer: gathered.regions(used) for layer, gathered in accumulators.items()}
    return {layer: of_layer for layer, of_layer in regions.items() if of_layer is not None}


def _accumulators(
    readings: Mapping[str, Reading],
    saes: Mapping[str, Sae],
    top_images: pd.DataFrame,
    probe: Probe,
    sample_size: int,
) -> dict[str, RegionAccumulator | LatentRegionAccumulator]:
    rows = {str(layer): rows for layer, rows in top_images.groupby("layer", sort=False)}
    images = {layer: _image_numbers(rows[layer], probe) for layer in readings}
    return {
        layer: LatentRegionAccumulator(images[layer], saes[layer])
        if layer in saes
        else RegionAccumulator(images[layer], sample_size)
        for layer in readings
    }


def _layers_with_maps(
    target: Target, settings: Settings, layers: Sequence[str]
) -> dict[str, Reading]:
    """Return how to read the layers whose outputs have positions in a grid."""
    try:
        with on_device(target.model, settings.torch_device):
            trial = try_out(target, layers)
    except DissectError as error:
        log.info("no regions: %s", error)
        return {}
    readings = {}
    for layer in layers:
        try:
            reading = trial.read(layer, of_maps(settings))
            sae = target.saes.get(layer)
            summarised = trial.read_latents(layer, settings.summary, sae) if sae else reading
        except DissectError as error:
            log.info("no regions of %s: %s", layer, error)
            continue
        if reading.grid not in (None, (1, 1)) and summarised.kind != "cls":
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
    saes = {layer: (sae.digest, sae.summary) for layer, sae in target.saes.items()}
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
        *([LATENTS_VERSION, settings.summary.kind, saes] if saes else []),
    )


def _entry(regions: dict[str, Regions]) -> Entry:
    arrays = {"none": torch.zeros(1, dtype=torch.float32)}  # an entry needs at least one array
    for layer, values in regions.items():
        arrays |= {f"{name} {layer}": getattr(values, name) for name in TENSORS}
    images = {layer: values.images for layer, values in regions.items()}
    return Entry(arrays, {"what": "regions for reports", "layers": images})
