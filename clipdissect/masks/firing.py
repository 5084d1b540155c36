"""How the units of layers fire on a densely labelled probe: their levels and masks.

Both are kept in the feature store, so that several methods and later runs share them.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.capture import determinism
from clipdissect.capture.capture import check_layers, check_still_readable
from clipdissect.capture.dataloader import DecodeError
from clipdissect.capture.maps import Maps, activation_maps, map_readings
from clipdissect.capture.output_layout import READING_VERSION, Reading
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.masks.layout import Layout
from clipdissect.masks.levels import Exact, Histogram, Levels, collector, firing, is_saturated
from clipdissect.masks.units import UnitMasks, entry_of, fire
from clipdissect.probe import Probe
from clipdissect.store import Entry, Store
from clipdissect.targets import Target
from clipdissect.utils import hashing

VERSION = 2  # raise it when the same activations give other levels or masks
log = logging.getLogger(__name__)

GROUP = 512  # units an entry of the store


@dataclass
class Dense:
    """How the units of layers fire on a probe; made by `dense`.

    Args:
        target, probe, settings: the network, the images and how to run.
        layout: of the masks.
        quantile: share of positions at which a unit fires.
        memory: in bytes.
        store: where levels and masks are kept.
        digests: of the network, its preprocessing and the images.
        computed: what was computed and didn't come from the store.
        skipped: numbers of the unreadable images, with the reason; of all layers the same ones.
        found: layer to its levels.
        known: layer to how its output is read, once that was needed.
        holder: keeps a temporary store alive.
        notes: warnings to record with the results.
    """

    target: Target
    probe: Probe
    settings: Settings
    layout: Layout
    quantile: float
    memory: float
    store: Store
    digests: dict[str, str]
    computed: list[str] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)
    found: dict[str, Levels] = field(default_factory=dict)
    known: dict[str, Reading] = field(default_factory=dict)
    holder: Any = None
    notes: tuple[str, ...] = ()

    @property
    def images(self) -> list[int]:
        """Numbers of the readable images."""
        return [i for i in range(len(self.probe)) if i not in self.skipped]

    @property
    def left_out(self) -> dict[str, str]:
        """Names of the unreadable images, with the reason."""
        return {self.probe.images[i]: why for i, why in sorted(self.skipped.items())}

    def readings(self, layers: Collection[str]) -> dict[str, Reading]:
        """How the layers' outputs are read, found out once for each.

        Raises:
            DissectError: as `map_readings`.
        """
        if lacking := [layer for layer in layers if layer not in self.known]:
            self.known |= map_readings(self.target, lacking, self.settings)
        return {layer: self.known[layer] for layer in layers}

    def masks(self, layer: str) -> Iterator[UnitMasks]:
        """A layer's units, some hundred at a time, with their masks.

        Raises:
            DissectError: as `dense`.
        """
        for first in self._firsts(layer):
            key = self._key(layer, first)
            entry = self.store.get(key)
            if entry is None:
                self._compute(layer, first)
                entry = self.store.get(key)
            assert entry is not None  # it was just written
            arrays = {name: array.numpy() for name, array in entry.arrays.items()}
            bits = arrays["bits"].view(np.uint64)
            yield UnitMasks(first, arrays["starts"], arrays["words"], bits)

    def _firsts(self, layer: str) -> range:
        return range(0, len(self.found[layer].levels), GROUP)

    def _key(self, layer: str, first: int) -> str:
        # An image may be missing in this run alone: its levels then aren't those of the next one.
        own = (
            self.found[layer].entry,
            sorted(self.skipped),
            hashing.hash_values(self.layout.sizes),
        )
        return hashing.hash_values("unit masks", VERSION, own, first, GROUP)

    def _plan(self, layer: str, first: int) -> dict[str, range]:
        """Units to compute masks of in one pass: these, and what comes next and fits the memory."""
        # A word is a number and 64 bits, and holds eight or more pixels of all but scattered masks.
        a_unit = 2.5 * 16 * self.quantile * self.layout.pixels / 8
        # Saturated units may fire anywhere in the images where they are at their level.
        a_unit += 16 * self.layout.words * max(own.at_level for own in self.found.values())
        left = max(1, int(self.memory / (a_unit * GROUP)))
        plan: dict[str, range] = {}
        layers = list(self.found)
        for name in layers[layers.index(layer) :]:
            firsts = self._firsts(name)[first // GROUP if name == layer else 0 :][:left]
            if not firsts or self.store.get(self._key(name, firsts[0])) is not None:
                continue
            plan[name] = range(firsts[0], min(len(self.found[name].levels), firsts[-1] + GROUP))
            left -= len(firsts)
        return plan

    def _compute(self, layer: str, first: int) -> None:
        plan = self._plan(layer, first)
        keys = {(name, start): self._key(name, start)
                for name, units in plan.items() for start in units[::GROUP]}  # fmt: skip
        with self.store.locked(keys.values()):
            if all(self.store.get(key) is not None for key in keys.values()):
                return  # another process was faster
            levels = {name: self.found[name] for name in plan}
            fired = fire(self.target, self.probe, self.settings, self.layout, levels, plan,
                         self.readings(plan), self.skipped)  # fmt: skip
            for (name, start), key in keys.items():
                unit, words, bits = fired[name]
                units = min(GROUP, plan[name].stop - start)
                own = (unit >= start) & (unit < start + units)
                about = {"layer": name, "first": start}
                self.store.put(
                    key, entry_of(unit[own] - start, words[own], bits[own], units, about)
                )
        self.computed += [f"masks of {name}" for name in plan]


def dense(
    target: Target, layers: Sequence[str], probe: Probe, store: Store | None, settings: Settings,
    *, quantile: float, memory: float,
) -> Dense:  # fmt: skip
    """How the layers' units fire on a densely labelled probe.

    Args:
        target: its preprocessing must show the network the whole image; see `view`.
        layers: of the target, with maps, tokens in a square grid, or vectors, whose only position
            is the whole image.
        probe: with masks, whose sizes the maps are brought to.
        store: where everything is kept; None: nowhere.
        settings: how to run the network.
        quantile: share of all positions at which a unit fires.
        memory: gigabytes that levels and masks may take; larger layers have their levels from a
            histogram, and their masks in several passes.

    Raises:
        DissectError: a probe without masks, an unknown layer, an unusable output, activations that
            aren't finite, no readable image, one that can't be read any more, a full disk.
    """
    if probe.masks is None:
        raise DissectError(
            f"probe {probe.name} has no masks of pixels, which this method compares units with: "
            f"use probe=broden or probe=synthetic_broden"
        )
    if memory <= 0:
        raise DissectError(f"method.memory is {memory}; it must be above 0")
    check_layers(target.model, layers)
    holder = None
    if store is None:
        holder = TemporaryDirectory(prefix="clipdissect-", ignore_cleanup_errors=True)
        store = Store(Path(holder.name))
    digests = {
        "target": hashing.hash_model(target.model),
        "target preprocess": hashing.hash_transform(target.preprocess), "images": probe.digest,
    }  # fmt: skip
    made = Dense(
        target, probe, settings, Layout.of(probe.masks.sizes), quantile, memory * 1e9, store,
        digests, holder=holder,
    )  # fmt: skip
    _find_levels(made, layers)
    made.notes += hashing.transient_notes(digests)
    return made


def _find_levels(what: Dense, layers: Sequence[str]) -> None:
    """Fill in the layers' levels, computing what the store lacks in one pass."""
    common = (what.digests, what.settings.numeric, torch.__version__)
    keys = {
        layer: hashing.hash_values(
            "levels",
            VERSION,
            READING_VERSION,
            layer,
            what.settings.summary.layout,
            what.quantile,
            what.memory,
            common,
        )
        for layer in layers
    }
    entries = _kept(what.store, keys)
    missing = {layer: key for layer, key in keys.items() if layer not in entries}
    if missing:
        for layer in _nondeterministic(what, list(missing)):
            keys[layer] = missing[layer] = hashing.transient_key()
        with what.store.locked(missing.values()):
            entries |= _kept(what.store, missing)  # another process may have been faster
            left = [layer for layer in missing if layer not in entries]
            for layer, entry in (_levels(what, left) if left else {}).items():
                entries[layer] = what.store.put(keys[layer], entry)
        what.computed += [f"levels of {layer}" for layer in left]
    skipped = {layer: _skipped(entry) for layer, entry in entries.items()}
    what.skipped = {image: why for own in skipped.values() for image, why in own.items()}
    check_still_readable(what.probe.images, skipped, what.skipped)
    for layer in layers:
        arrays, about = entries[layer].arrays, entries[layer].about
        what.found[layer] = Levels(arrays["levels"], arrays["peaks"], arrays["dead"],
                                   arrays["saturated"],
                                   float(about["error"]), keys[layer])  # fmt: skip


def _nondeterministic(what: Dense, layers: Sequence[str]) -> dict[str, str]:
    """Return the layers that must not be cached, with a note and a warning for them."""
    known = what.readings(layers)
    reasons = determinism.nondeterministic(
        what.target, None, what.probe, layers, known, what.settings
    )
    what.notes = determinism.notes(reasons, what.target.name)
    for note in what.notes:
        log.warning(note)
    return reasons


def _kept(store: Store, keys: Mapping[str, str]) -> dict[str, Entry]:
    found = {layer: store.get(key) for layer, key in keys.items()}
    return {layer: entry for layer, entry in found.items() if entry is not None}


def _skipped(entry: Entry) -> dict[int, str]:
    return {image: why for image, why, _ in entry.about["skipped"]}


@dataclass
class _Running:
    """What a pass gathers of one layer."""

    collector: Exact | Histogram
    positions: int = 0
    peaks: list[Tensor] = field(default_factory=list)
    lowest: list[Tensor] = field(default_factory=list)

    def add(self, values: Float[Tensor, "images units h w"]) -> None:
        self.peaks.append(values.amax((2, 3)).cpu())
        self.lowest.append(values.amin((0, 2, 3)).cpu())
        flat = values.permute(1, 0, 2, 3).flatten(1)
        self.positions += flat.shape[1]
        self.collector.add(flat)

    def entry(self, quantile: float, about: dict[str, Any]) -> Entry:
        peaks = torch.cat(self.peaks)
        lowest, highest = torch.stack(self.lowest).amin(0), peaks.amax(0)
        dead = highest == lowest
        levels = self.collector.levels(firing(quantile, self.positions))
        # A histogram's level of a unit that never varies lies below its one activation.
        levels = torch.where(dead, highest, levels)
        saturated = is_saturated(levels, lowest, highest)
        arrays = {"levels": levels, "peaks": peaks, "dead": dead, "saturated": saturated}
        return Entry(arrays, {**about, "error": self.collector.error})


def _levels(what: Dense, layers: Sequence[str]) -> dict[str, Entry]:
    running: dict[str, _Running] = {}
    skipped: list[DecodeError] = []
    known = what.readings(layers)
    for maps in activation_maps(what.target, layers, what.probe, what.settings, known):
        skipped += maps.skipped
        for layer, values in maps.layers.items():
            _check(layer, values, maps, what.probe)
            if layer not in running:
                _, units, height, width = values.shape
                positions = len(what.probe) * height * width
                memory = what.memory / len(layers)
                running[layer] = _Running(collector(what.quantile, units, positions, memory))
            running[layer].add(values)
    if not running:
        raise DissectError(f"none of the {len(what.probe)} images of {what.probe.name} can be read")
    about = {"probe": what.probe.name, "of": what.target.name, "skipped": skipped}
    return {
        layer: own.entry(what.quantile, {**about, "what": f"levels of {layer}"})
        for layer, own in running.items()
    }


def _check(layer: str, values: Tensor, maps: Maps, probe: Probe) -> None:
    if torch.isfinite(values).all():
        return
    row, unit = (~torch.isfinite(values)).nonzero()[0, :2].tolist()
    raise DissectError(
        f"layer {layer}, unit {unit}: an activation on image {probe.images[int(maps.images[row])]} "
        f"is not a finite number"
    )
