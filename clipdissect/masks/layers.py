"""Thresholds and masks of the units of layers on a densely labelled probe, cached."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.capture import determinism
from clipdissect.capture.capture import check_layers, check_still_readable
from clipdissect.capture.decoding import DecodeError
from clipdissect.capture.latents import latent_digests
from clipdissect.capture.maps import Maps, activation_maps, map_readings
from clipdissect.capture.output_layout import READING_VERSION, Reading
from clipdissect.capture.sae_fit import SaeFit, stored_fits, warn
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.masks.layout import Layout
from clipdissect.masks.thresholds import (
    ExactThresholds,
    HistogramThresholds,
    Thresholds,
    active_positions,
    is_saturated,
    threshold_estimator,
)
from clipdissect.masks.units import UnitMasks, compute_unit_masks
from clipdissect.probe import Probe
from clipdissect.store import Entry, Store
from clipdissect.targets import Target
from clipdissect.utils import hashing

VERSION = 2  # raise it when the same activations give other thresholds or masks
log = logging.getLogger(__name__)

GROUP = 512  # units per entry of the store


@dataclass
class LayerThresholds:
    """Thresholds of the units of layers on a probe; built by `layer_thresholds`."""

    target: Target
    probe: Probe
    settings: Settings
    quantile: float
    memory: float  # in bytes
    store: Store
    digests: dict[str, str]  # of the network, its preprocessing and the images
    computed: list[str] = field(default_factory=list)  # not loaded from the store
    skipped: dict[int, str] = field(default_factory=dict)  # unreadable images, in all layers
    thresholds: dict[str, Thresholds] = field(default_factory=dict)
    known_readings: dict[str, Reading] = field(default_factory=dict)
    # References, so that temporary stores aren't deleted.
    temporary: list[TemporaryDirectory[str] | None] = field(default_factory=list)
    notes: tuple[str, ...] = ()  # warnings to record with the results
    fits: dict[str, SaeFit] = field(default_factory=dict)  # of layers with latents

    @property
    def images(self) -> list[int]:
        """Return the numbers of the readable images."""
        return [i for i in range(len(self.probe)) if i not in self.skipped]

    @property
    def left_out(self) -> dict[str, str]:
        """Return the names of the unreadable images, with the reason."""
        return {self.probe.images[i]: reason for i, reason in sorted(self.skipped.items())}

    def readings(self, layers: Collection[str]) -> dict[str, Reading]:
        """Return how to read the layers' outputs, determined once per layer."""
        if missing := [layer for layer in layers if layer not in self.known_readings]:
            self.known_readings |= map_readings(self.target, missing, self.settings)
        return {layer: self.known_readings[layer] for layer in layers}


@dataclass(kw_only=True)
class LayerMasks(LayerThresholds):
    """Thresholds and masks of the units of layers on a probe; built by `layer_masks`."""

    layout: Layout

    def masks(self, layer: str) -> Iterator[UnitMasks]:
        """Yield a layer's masks in groups of units, computing those not in the store."""
        for first in self._group_starts(layer):
            key = self._key(layer, first)
            entry = self.store.get(key)
            if entry is None:
                self._compute_masks(layer, first)
                entry = self.store.get(key)
            assert entry is not None  # it was just written
            arrays = {name: array.numpy() for name, array in entry.arrays.items()}
            bits = arrays["bits"].view(np.uint64)
            yield UnitMasks(first, arrays["starts"], arrays["words"], bits)

    def _group_starts(self, layer: str) -> range:
        return range(0, len(self.thresholds[layer].values), GROUP)

    def _key(self, layer: str, first: int) -> str:
        # An image may be unreadable in this run only, so the images are part of the cache key.
        sizes = hashing.hash_values(self.layout.sizes)
        inputs = self.thresholds[layer].entry, sorted(self.skipped), sizes
        return hashing.hash_values("unit masks", VERSION, inputs, first, GROUP)

    def _next_units(self, layer: str, first: int) -> dict[str, range]:
        """Return the units of one pass: this group, and later ones without masks, within memory."""
        # A word takes 16 bytes with its number; in all but scattered masks it has 8 pixels or more.
        unit_bytes = 2.5 * 16 * self.quantile * self.layout.pixels / 8
        # Saturated units may be active anywhere in the images where they reach their threshold.
        saturated = max(layer.saturated_fraction for layer in self.thresholds.values())
        unit_bytes += 16 * self.layout.words * saturated
        groups_left = max(1, int(self.memory / (unit_bytes * GROUP)))
        units: dict[str, range] = {}
        layers = list(self.thresholds)
        for name in layers[layers.index(layer) :]:
            starts = self._group_starts(name)[first // GROUP if name == layer else 0 :]
            starts = starts[:groups_left]
            if not starts or self.store.get(self._key(name, starts[0])) is not None:
                continue
            stop = min(len(self.thresholds[name].values), starts[-1] + GROUP)
            units[name] = range(starts[0], stop)
            groups_left -= len(starts)
        return units

    def _compute_masks(self, layer: str, first: int) -> None:
        units = self._next_units(layer, first)
        groups = {
            self._key(name, start): (name, range(start, min(start + GROUP, wanted.stop)))
            for name, wanted in units.items()
            for start in wanted[::GROUP]
        }
        with self.store.locked(groups):
            if all(self.store.get(key) is not None for key in groups):
                return  # another process was faster
            words = compute_unit_masks(
                self.target,
                self.probe,
                self.settings,
                self.layout,
                {name: self.thresholds[name] for name in units},
                units,
                self.readings(units),
                self.skipped,
            )
            for key, (name, group) in groups.items():
                self.store.put(key, words[name].entry(name, group))
        self.computed += [f"masks of {name}" for name in units]


def layer_masks(
    target: Target,
    layers: Sequence[str],
    probe: Probe,
    store: Store | None,
    settings: Settings,
    *,
    quantile: float,
    memory: float,
) -> LayerMasks:
    """Compute thresholds of the units of layers on a densely labelled probe.

    Layers have maps, tokens in a square grid, or vectors (one position: the whole image). The
    target must see whole images; see `crop`. `quantile` is the fraction of positions at which a
    unit is active; `memory` is in gigabytes: larger layers get thresholds from a histogram.
    Raises: DissectError for a probe without masks, an unknown layer, an unusable output,
    non-finite activations, no readable image, or an image that has become unreadable.
    """
    if probe.masks is None:
        raise DissectError(
            f"probe {probe.name} has no pixel masks, which this method compares units with: "
            f"use probe=broden or probe=synthetic_broden"
        )
    found = layer_thresholds(
        target, layers, probe, store, settings, quantile=quantile, memory=memory
    )
    values = {each.name: getattr(found, each.name) for each in fields(found)}
    return LayerMasks(**values, layout=Layout.of(probe.masks.sizes))


def layer_thresholds(
    target: Target,
    layers: Sequence[str],
    probe: Probe,
    store: Store | None,
    settings: Settings,
    *,
    quantile: float,
    memory: float,
) -> LayerThresholds:
    """Compute the thresholds of `layer_masks`, on any probe."""
    if memory <= 0:
        raise DissectError(f"method.memory is {memory}; it must be above 0")
    check_layers(target, layers)
    for layer in layers:
        if layer in target.saes and target.saes[layer].summary == "cls":
            raise DissectError(
                f"layer {layer}: its sparse autoencoder encodes class tokens, which have no map"
            )
    digests = {
        "target": target.digest,
        "target preprocess": target.preprocess_digest,
        "images": probe.digest,
    }
    digests |= latent_digests(target, layers)
    folder, store = _temporary_store() if store is None else (None, store)
    found = LayerThresholds(target, probe, settings, quantile, memory * 1e9, store, digests)
    found.temporary.append(folder)
    readings = found.readings([layer for layer in layers if layer in target.saes])
    found.fits = stored_fits(target, readings, probe, settings, store, digests)
    of_fits = warn(found.fits, target)  # before any work
    _load_thresholds(found, layers)
    found.notes += of_fits
    found.notes += hashing.transient_notes(digests)
    return found


def _temporary_store() -> tuple[TemporaryDirectory[str], Store]:
    folder = TemporaryDirectory(prefix="clipdissect-", ignore_cleanup_errors=True)
    return folder, Store(Path(folder.name))


def _load_thresholds(masks: LayerThresholds, layers: Sequence[str]) -> None:
    """Load the layers' thresholds, computing those not in the store in one pass."""
    settings = masks.settings
    method = (settings.summary.layout, masks.quantile, masks.memory)
    inputs = (READING_VERSION, method, masks.digests, settings.numeric, torch.__version__)
    keys = {layer: hashing.hash_values("levels", VERSION, layer, inputs) for layer in layers}
    entries = _stored(masks.store, keys)
    missing = {layer: key for layer, key in keys.items() if layer not in entries}
    if missing:
        for layer in _nondeterministic(masks, list(missing)):
            keys[layer] = missing[layer] = hashing.transient_key()
        with masks.store.locked(missing.values()):
            entries |= _stored(masks.store, missing)  # another process may have been faster
            remaining = [layer for layer in missing if layer not in entries]
            computed = _compute_thresholds(masks, remaining) if remaining else {}
            for layer, entry in computed.items():
                entries[layer] = masks.store.put(keys[layer], entry)
        masks.computed += [f"levels of {layer}" for layer in remaining]
    skipped = {
        layer: {image: reason for image, reason, _ in entry.about["skipped"]}
        for layer, entry in entries.items()
    }
    masks.skipped = {
        image: reason for reasons in skipped.values() for image, reason in reasons.items()
    }
    check_still_readable(masks.probe.images, skipped, masks.skipped)
    for layer in layers:
        arrays, error = entries[layer].arrays, float(entries[layer].about["error"])
        dead, saturated = arrays["dead"], arrays["saturated"]
        masks.thresholds[layer] = Thresholds(
            arrays["levels"], arrays["peaks"], dead, saturated, error, keys[layer]
        )


def _nondeterministic(masks: LayerThresholds, layers: Sequence[str]) -> dict[str, str]:
    """Return the layers that must not be cached, with the reason; note and log a warning."""
    readings = masks.readings(layers)
    reasons = determinism.nondeterministic(
        masks.target, None, masks.probe, layers, readings, masks.settings
    )
    masks.notes = determinism.notes(reasons, masks.target.name)
    for note in masks.notes:
        log.warning(note)
    return reasons


def _stored(store: Store, keys: Mapping[str, str]) -> dict[str, Entry]:
    entries = {layer: store.get(key) for layer, key in keys.items()}
    return {layer: entry for layer, entry in entries.items() if entry is not None}


@dataclass
class _RunningThresholds:
    """Running statistics of one layer."""

    estimator: ExactThresholds | HistogramThresholds
    positions: int = 0
    max_activations: list[Tensor] = field(default_factory=list)
    lowest: list[Tensor] = field(default_factory=list)

    def add(self, values: Float[Tensor, "images units h w"]) -> None:
        self.max_activations.append(values.amax((2, 3)).cpu())
        self.lowest.append(values.amin((0, 2, 3)).cpu())
        flat = values.permute(1, 0, 2, 3).flatten(1)
        self.positions += flat.shape[1]
        self.estimator.add(flat)

    def entry(self, quantile: float, about: dict[str, Any]) -> Entry:
        max_activation = torch.cat(self.max_activations)
        lowest, highest = torch.stack(self.lowest).amin(0), max_activation.amax(0)
        dead = highest == lowest
        thresholds = self.estimator.thresholds(active_positions(quantile, self.positions))
        # A histogram's threshold of a unit that never varies lies below its one activation.
        thresholds = torch.where(dead, highest, thresholds)
        saturated = is_saturated(thresholds, lowest, highest)
        arrays = {
            "levels": thresholds,
            "peaks": max_activation,
            "dead": dead,
            "saturated": saturated,
        }
        return Entry(arrays, {**about, "error": self.estimator.error})


def _compute_thresholds(masks: LayerThresholds, layers: Sequence[str]) -> dict[str, Entry]:
    probe = masks.probe
    running: dict[str, _RunningThresholds] = {}
    skipped: list[DecodeError] = []
    readings = masks.readings(layers)
    for maps in activation_maps(masks.target, layers, probe, masks.settings, readings):
        skipped += maps.skipped
        for layer, values in maps.layers.items():
            _check_finite(layer, values, maps, probe)
            if layer not in running:
                _, units, height, width = values.shape
                positions, memory = len(probe) * height * width, masks.memory / len(layers)
                estimator = threshold_estimator(masks.quantile, units, positions, memory)
                running[layer] = _RunningThresholds(estimator)
            running[layer].add(values)
    if not running:
        raise DissectError(f"none of the {len(probe)} images of {probe.name} can be read")
    about = {"probe": probe.name, "of": masks.target.name, "skipped": skipped}
    return {
        layer: statistics.entry(masks.quantile, {**about, "what": f"levels of {layer}"})
        for layer, statistics in running.items()
    }


def _check_finite(layer: str, values: Tensor, maps: Maps, probe: Probe) -> None:
    if torch.isfinite(values).all():
        return
    row, unit = (~torch.isfinite(values)).nonzero()[0, :2].tolist()
    raise DissectError(
        f"layer {layer}, unit {unit}: an activation on image {probe.images[int(maps.images[row])]} "
        f"is not a finite number"
    )
