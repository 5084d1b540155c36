"""Crops of the top images around where units are active, in place of whole images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from clipdissect.capture.activations import Activations, TopKActivations, top_of
from clipdissect.capture.dataloader import batches
from clipdissect.capture.decoding import batch_requests
from clipdissect.capture.features import CapturedFeatures
from clipdissect.capture.networks import EMBEDS, networks
from clipdissect.capture.settings import Settings
from clipdissect.dissection import Evidence, Job
from clipdissect.encoder import Encoder
from clipdissect.encoder.lazy import preprocess_digest
from clipdissect.errors import DissectError
from clipdissect.images.decode import Picture, to_pil
from clipdissect.masks.boxes import Box, active_boxes, otsu_thresholds
from clipdissect.masks.crop import without_crop
from clipdissect.masks.regions import find_regions
from clipdissect.probe import Probe
from clipdissect.results.describe import top_images_table
from clipdissect.similarity.inputs import ConceptActivations, TopActivations
from clipdissect.store import Entry
from clipdissect.utils import hashing

VERSION = 1  # raise it when the same crops get other embeddings
TOP_IMAGES = 10  # per unit that are cropped


class Crop(NamedTuple):
    """A part of an image: a box on a grid of positions over the whole image."""

    image: int  # number in the probe
    box: Box
    grid: tuple[int, int]  # rows and columns

    @property
    def fractions(self) -> tuple[float, ...]:
        """Top, left, bottom and right, from 0 to 1."""
        return tuple(edge / side for edge, side in zip(self.box, self.grid * 2, strict=True))

    def of(self, picture: Image.Image) -> Image.Image:
        """Return the part of the picture; at least one pixel."""
        sides = picture.height, picture.width
        first = [
            min(int(edge * side), side - 1)
            for edge, side in zip(self.fractions[:2], sides, strict=True)
        ]
        last = [
            max(round(edge * side), start + 1)
            for edge, side, start in zip(self.fractions[2:], sides, first, strict=True)
        ]
        return picture.crop((first[1], first[0], last[1], last[0]))


UnitCrops = list[list[Crop]]  # per top image, best first; none: the whole image


@dataclass(frozen=True)
class Crops:
    """The crops of each unit's top images, by layer; `notes` tell which layers have none."""

    layers: Mapping[str, list[UnitCrops]]
    notes: tuple[str, ...] = ()

    @property
    def distinct(self) -> list[Crop]:
        """The different crops, in increasing order."""
        units = (unit for units in self.layers.values() for unit in units)
        return sorted({crop for unit in units for image in unit for crop in image})

    @property
    def facts(self) -> dict[str, Any]:
        """Counts per layer: of top images, those among them that stay whole, and crops."""
        counts = {}
        for layer, units in self.layers.items():
            images = [image for unit in units for image in unit]
            crops = [crop for image in images for crop in image]
            counts[layer] = {
                "images": len(images),
                "whole": sum(not image for image in images),
                "crops": len(crops),
                "distinct": len(set(crops)),
            }
        return counts


def find_crops(job: Job, captured: CapturedFeatures, count: int = TOP_IMAGES) -> Crops:
    """Return crops of the top images of all units, after running the target again on these.

    The target sees whole images, squeezed to its input, so that boxes are of whole images.
    """
    target, probe = job.require("crops", ("target", "probe"))
    view, notes = without_crop(target.preprocess)
    tables = [
        top_images_table(layer, top_of(q, count), captured.images, count, layer in target.saes)
        for layer, q in captured.activations.items()
    ]
    shown = pd.concat(tables, ignore_index=True)
    squeezed = target.with_preprocess(view)
    regions = find_regions(squeezed, probe, job.settings, shown, len(probe), job.store)
    numbers = dict(zip(captured.images, probe.numbers(captured.images), strict=True))
    layers = {
        layer: _unit_crops(table, numbers, regions[layer].maps.float().numpy())
        for layer, table in zip(captured.activations, tables, strict=True)
        if layer in regions
    }
    absent = [layer for layer in captured.activations if layer not in layers]
    if absent:
        notes += (f"no maps of {', '.join(absent)}: described by whole images, not by crops",)
    return Crops(layers, notes)


def _unit_crops(
    table: pd.DataFrame, numbers: Mapping[str, int], maps: Float[np.ndarray, "units slots h w"]
) -> list[UnitCrops]:
    units, slots, *grid = maps.shape
    thresholds = otsu_thresholds(maps.reshape(units * slots, -1)).reshape(units, slots)
    crops: list[UnitCrops] = [[] for _ in range(units)]
    places = zip(table["unit"], table["rank"] - 1, table["image"], strict=True)
    for unit, slot, image in places:  # in order of rank
        boxes = active_boxes(maps[unit, slot], float(thresholds[unit, slot]))
        crops[unit].append([Crop(numbers[image], box, (grid[0], grid[1])) for box in boxes])
    return crops


def cropped_evidence(job: Job, captured: CapturedFeatures, evidence: Evidence) -> Evidence:
    """Return the evidence with crops in place of the first top images of each unit.

    Their embeddings are appended to those of the images.
    """
    crops = find_crops(job, captured)
    distinct = crops.distinct
    whole = evidence.concept_activations
    rows = {crop: len(whole.image_embeds) + place for place, crop in enumerate(distinct)}
    embeds, computed = [whole.image_embeds.float()], evidence.computed
    if distinct:
        of_crops, is_new = embed_crops(job, distinct)
        embeds.append(of_crops)
        computed = (*computed, "crop embeddings") if is_new else computed
    k = evidence.similarity.images_per_unit
    assert k is not None  # the functions of top images have a number

    def of_layer(layer: str, q: Activations) -> Activations:
        units = crops.layers.get(layer, [])
        return _with_crops(q, units, rows, k, len(whole.image_embeds) + len(rows))

    groups = (len(whole.image_embeds), len(distinct))
    return replace(
        evidence,
        concept_activations=ConceptActivations(torch.cat(embeds), whole.text_embeds, groups=groups),
        of_layer=of_layer,
        computed=computed,
        notes=(*evidence.notes, *crops.notes),
        facts={**evidence.facts, "crops": {"distinct": len(distinct), "layers": crops.facts}},
    )


def _with_crops(
    q: Activations, units: Sequence[UnitCrops], rows: Mapping[Crop, int], k: int, images: int
) -> TopKActivations:
    """Return the top `k` of images and crops: a crop has the activation of its image.

    An image's crops stand in its place, one after the other.
    """
    if isinstance(q, TopKActivations):
        kept = q
    else:
        kept = TopKActivations.of(q, torch.arange(len(q), device=q.device), k)
    indices = kept.top.indices[:k].clone().cpu()
    values = kept.top.values[:k].clone().cpu()
    for unit, slots in enumerate(units):
        if any(slots):
            places, entries = _entries(slots, indices[:, unit].tolist(), rows)
            indices[:, unit] = torch.tensor(entries)
            values[:, unit] = values[places, unit]
    top = TopActivations(values, indices, images).to(kept.top.values.device)
    return TopKActivations(top, kept.distinct)


def _entries(
    slots: UnitCrops, images: Sequence[int], rows: Mapping[Crop, int]
) -> tuple[list[int], list[int]]:
    """Return the places of a unit's top images, repeated for several crops, and their rows."""
    found = [
        (place, row)
        for place, image in enumerate(images)
        for row in (
            [rows[crop] for crop in slots[place]]
            if place < len(slots) and slots[place]
            else [image]
        )
    ]
    places, entries = zip(*found[: len(images)], strict=True)
    return list(places), list(entries)


def embed_crops(job: Job, crops: Sequence[Crop]) -> tuple[Float[Tensor, "crops dims"], bool]:
    """Return the encoder's embeddings of crops of the images at full size, and if they are new.

    An encoder that embeds parts of images by itself has a method `embed_regions(images, boxes)`
    of names, and edges `[images, 4]` (top, left, bottom, right, from 0 to 1).
    """
    probe, encoder = job.require("crops", ("probe", "encoder"))
    of_regions = getattr(encoder, "embed_regions", None)
    if of_regions is not None:
        edges = torch.tensor([crop.fractions for crop in crops], dtype=torch.float32)
        embeds: Tensor = of_regions([probe.images[crop.image] for crop in crops], edges)
        return embeds, True
    pictures = probe_of_crops(probe, crops)
    key = hashing.hash_values(
        "crop embeds",
        VERSION,
        pictures.digest,
        encoder.image_digest,
        preprocess_digest(encoder),
        job.settings.numeric,
        torch.__version__,
    )

    new: list[Entry] = []

    def compute() -> Entry:
        entry = Entry(
            {"values": _embeds(job.target, encoder, pictures, job.settings)},
            {"what": "embeddings of crops", "probe": probe.name, "images": len(pictures)},
        )
        new.append(entry)
        return entry

    entry = job.store.get_or_compute(key, compute) if job.store else compute()
    return entry.arrays["values"], bool(new)


def probe_of_crops(probe: Probe, crops: Sequence[Crop]) -> Probe:
    """Return crops as the images of a probe."""
    names = [f"{probe.images[crop.image]} {crop.box} of {crop.grid}" for crop in crops]
    return Probe(
        f"crops of {probe.name}",
        tuple(names),
        partial(_read, probe.read, tuple(crops)),
        hashing.hash_values("crops", probe.digest, [tuple(crop) for crop in crops]),
        on_error="raise",  # all of them could be read before
    )


def _read(read: Any, crops: Sequence[Crop], number: int) -> Picture:
    crop = crops[number]
    return crop.of(to_pil(read(crop.image)))


@torch.no_grad()
def _embeds(
    target: Any, encoder: Encoder, pictures: Probe, settings: Settings
) -> Float[Tensor, "images dims"]:
    requests = batch_requests(range(len(pictures)), settings.images_a_batch, (1,))
    parts = []
    with (
        networks(target, {}, encoder, settings) as run,
        closing(batches(pictures, run.transforms, requests, settings)) as stream,
    ):
        for batch in stream:
            parts.append(run((EMBEDS,), None, batch.inputs[1])[EMBEDS].cpu())
    return torch.cat(parts)


def check_crops(job: Job) -> None:
    """Raise a DissectError if the similarity function doesn't take crops."""
    (similarity,) = job.require("crops", ("similarity",))
    if similarity.needs_all:
        raise DissectError(
            f"method.crops needs a similarity function of the top images (soft_wpmi, wpmi); "
            f"{similarity.name} compares all images: leave out method.crops"
        )
