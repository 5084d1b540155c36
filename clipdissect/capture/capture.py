"""One pass over the probe: layer activations and image embeddings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clipdissect.capture import determinism
from clipdissect.capture.activations import Activations, Firing, TopKActivations
from clipdissect.capture.features import CapturedFeatures, Lazy, concatenate
from clipdissect.capture.infer_layout import read_layers
from clipdissect.capture.latents import (
    LATENTS_VERSION,
    digest_name,
    images_a_shard,
    latent_digests,
)
from clipdissect.capture.networks import EMBEDS, networks
from clipdissect.capture.output_layout import READING_VERSION, Reading
from clipdissect.capture.sae_fit import SaeFit, stored_fits, warn
from clipdissect.capture.settings import Settings
from clipdissect.capture.shard_runner import ShardTask, run_shards
from clipdissect.capture.writers import ShardWriter, TopKWriter, read_firing, read_top_k
from clipdissect.encoder import Encoder
from clipdissect.encoder.lazy import preprocess_digest
from clipdissect.errors import DissectError, unknown
from clipdissect.models.layer_patterns import LATENTS, split_layer
from clipdissect.probe import Probe
from clipdissect.store import Entry, Shard, Store
from clipdissect.store.entries import Rows
from clipdissect.targets import Target
from clipdissect.utils import hashing
from clipdissect.utils.distributed import ALONE, Team, mention_threads
from clipdissect.utils.memory import kept_memory
from clipdissect.utils.timing import Timers

log = logging.getLogger(__name__)

# Parts of cache keys: increment one when the code that computes the numbers changes their values.
ACTIVATIONS_VERSION = 2
EMBEDS_VERSION = 1

READINGS = "how outputs are read"  # description of such an entry in listings
MIN_TOP_K = 100  # enough for the default similarity, so that other runs can use the entry


def capture(
    target: Target,
    layers: Sequence[str],
    encoder: Encoder | None,
    probe: Probe,
    store: Store | None,
    settings: Settings,
    *,
    top_k: int = 0,
    team: Team = ALONE,
) -> CapturedFeatures:
    """Compute activations and, with an encoder, image embeddings, or read the cached ones.

    Only networks with missing arrays run; an interrupted capture resumes after its last complete
    shard. Unions are captured per part, to reuse cached parts. In a team the leader calls this,
    the others `run_worker`. Outputs that aren't a function of the image (see `determinism`) are
    not cached, with a warning and a note.

    Args:
        store: the cache, which a team must share; None caches nothing.
        top_k: images per unit where only the top images are stored (`settings.keep`); at least
            `MIN_TOP_K` are.

    Raises:
        DissectError: unknown layer, unusable output or value, unreadable images, or a full disk.
    """
    folder = None
    if store is None:
        if team.size > 1:
            raise DissectError("several processes need a store that all of them see")
        folder = TemporaryDirectory(prefix="clipdissect-", ignore_cleanup_errors=True)
        store = Store(Path(folder.name))
    mention_threads(team, settings.torch_device)
    job = _Capture(target, layers, encoder, store, settings, top_k, team)
    fits = job.fits((probe.parts or (probe,))[0])
    of_fits = warn(fits, target)  # before any work
    parts = [job.features(part, *job.ensure(part)) for part in probe.parts or (probe,)]
    features = concatenate(probe, parts) if probe.parts else parts[0]
    notes = determinism.notes(job.reasons, target.name, encoder.name if encoder else "")
    for note in notes:
        log.warning(note)
    notes += of_fits + hashing.transient_notes(features.digests)
    return replace(
        features,
        holder=(folder, store),
        seconds=job.timers.seconds,
        notes=notes,
        readings=job.readings,
        fits=fits,
    )


def run_worker(
    target: Target,
    layers: Sequence[str],
    encoder: Encoder | None,
    probe: Probe,
    store: Store,
    settings: Settings,
    *,
    top_k: int = 0,
    team: Team,
) -> None:
    """Compute a team member's share of `capture`'s images into the store."""
    job = _Capture(target, layers, encoder, store, settings, top_k, team)
    for part in probe.parts or (probe,):
        job.ensure(part)


def check_layers(target: Target, layers: Sequence[str]) -> None:
    """Raise a DissectError unless layers are given, exist, and are listed once."""
    if not layers:
        children = ", ".join(name for name in target.modules if "." not in name)
        raise DissectError(
            f"no layers to dissect: set target.layers (layers=[...]), for example to some of "
            f"{children}; `clipdissect layers` lists all"
        )
    if len(set(layers)) < len(layers):
        raise DissectError(f"a layer is listed twice: {', '.join(layers)}")
    modules = target.modules
    for layer in layers:
        name, _ = split_layer(layer)
        if layer.endswith(LATENTS) and layer not in target.saes:
            raise DissectError(
                f"layer {layer} names latents, of which there is no sparse autoencoder: write "
                f"{layer.removesuffix(LATENTS)}, and set sae and sae.layer"
            )
        if name not in modules:
            raise unknown("layer", name, modules, most=12)


def check_still_readable(
    images: Sequence[str], lacking: Mapping[str, Collection[int]], unreadable: Mapping[int, str]
) -> None:
    """Raise a DissectError if a layer isn't `lacking` an image that is now unreadable."""
    for layer, absent in lacking.items():
        for lost in sorted(unreadable.keys() - set(absent)):
            raise DissectError(
                f"{images[lost]} can't be read now ({unreadable[lost]}), but it could when layer "
                f"{layer} was captured, and the cached activations of that layer can't be used "
                f"without it. Repair the image, or leave it out of the probe, and run again"
            )


class _Capture:
    """The state of `capture`, shared by all parts of the probe."""

    def __init__(
        self,
        target: Target,
        layers: Sequence[str],
        encoder: Encoder | None,
        store: Store,
        settings: Settings,
        top_k: int,
        team: Team,
    ) -> None:
        self.target, self.layers, self.encoder = target, tuple(layers), encoder
        self.store, self.settings, self.team = store, settings, team
        self.top_k = max(top_k, MIN_TOP_K)
        self.latents = [layer for layer in layers if layer in target.saes]
        self.timers = Timers()
        self.reasons: dict[str, str] = {}  # why arrays can't be cached, by name
        with self.timers.stage("digests"):
            check_layers(target, layers)
            self.digests = {
                "target": target.digest,
                "target preprocess": target.preprocess_digest,
            }
            if encoder is not None:
                self.digests["encoder images"] = encoder.image_digest
                self.digests["encoder preprocess"] = preprocess_digest(encoder)
            self.digests |= latent_digests(target, layers)
            self.readings = self._readings()

    def _readings(self) -> dict[str, Reading]:
        """Return how the layers' outputs are read: cached, or inferred by a trial run."""
        network = (self.digests["target"], self.digests["target preprocess"])
        summary = self.settings.summary
        key = hashing.hash_values(
            "readings",
            READING_VERSION,
            network,
            self.layers,
            (summary.kind, summary.layout),
            torch.__version__,
            *(self.digests[digest_name(layer)] for layer in self.latents),
        )

        def infer() -> Entry:
            device = self.settings.torch_device
            readings = read_layers(self.target, self.layers, summary, device)
            facts = {layer: reading.facts for layer, reading in readings.items()}
            return Entry({}, {"what": READINGS, "of": self.target.name, "layers": facts})

        facts = self.store.get_or_compute(key, infer).about["layers"]
        return {layer: Reading.of_facts(layer, facts[layer]) for layer in self.layers}

    def fits(self, probe: Probe) -> dict[str, SaeFit]:
        """Return how well the autoencoders fit their layers: cached, or by a few images."""
        readings = {layer: self.readings[layer] for layer in self.latents}
        return stored_fits(self.target, readings, probe, self.settings, self.store, self.digests)

    def ensure(self, probe: Probe) -> tuple[dict[str, list[Shard]], tuple[str, ...]]:
        """Compute missing arrays; return all shards (leader only) and the names computed."""
        keys = self._keys(probe)
        writers = {name: self._writer(probe, name, key) for name, key in keys.items()}
        shards = _complete(writers) if self.team.leads else {}
        missing = self.team.broadcast([name for name in writers if name not in shards])
        if missing:
            locked = self.store.locked([keys[name] for name in missing])
            kept = kept_memory(self.settings.torch_device)
            with kept, locked if self.team.leads else nullcontext():
                if self.team.leads:  # another process may have been faster
                    shards |= _complete({name: writers[name] for name in missing})
                missing = self.team.broadcast([name for name in missing if name not in shards])
                for name in self._nondeterministic(probe, missing):
                    key = self.team.broadcast(hashing.transient_key())
                    writers[name] = self._writer(probe, name, key)
                shards |= self._compute(probe, {name: writers[name] for name in missing})
        for name in shards:
            writers[name].series.used()
        return shards, tuple(missing)

    def _compute(self, probe: Probe, writers: dict[str, ShardWriter]) -> dict[str, list[Shard]]:
        saes = [sae for layer, sae in self.target.saes.items() if layer in writers]
        count, step = len(probe), images_a_shard(saes, self.settings)
        grid = [(start, min(start + step, count)) for start in range(0, count, step)]
        missing: dict[str, set[Rows]] = {}
        if self.team.leads:
            missing = {name: set(writer.begin(grid)) for name, writer in writers.items()}
        missing = self.team.broadcast(missing)
        names = {rows: tuple(n for n in missing if rows in missing[n]) for rows in grid}
        tasks = [ShardTask(rows, names[rows]) for rows in grid if names[rows]]
        done = len(grid) - len(tasks)
        if done and tasks and self.team.leads:
            log.info("resuming after %d of %d shards from an earlier run", done, len(grid))
        if own_tasks := self.team.partition(tasks):
            layers = {name: self.readings[name] for name in writers if name != EMBEDS}
            with networks(self.target, layers, self.encoder, self.settings) as run:
                run_shards(run, probe, own_tasks, writers, self.timers)
        self.team.barrier()
        shards = {}
        if self.team.leads:
            shards = {name: writer.finish(grid) for name, writer in writers.items()}
        self.team.barrier()
        return shards

    def _keys(self, probe: Probe) -> dict[str, str]:
        common = (probe.digest, self.settings.numeric, torch.__version__)
        of_target = (self.digests["target"], self.digests["target preprocess"])
        keys = {layer: self._key(layer, of_target, common) for layer in self.layers}
        if self.encoder is not None:
            of_encoder = (self.digests["encoder images"], self.digests["encoder preprocess"])
            keys[EMBEDS] = hashing.hash_values("image embeds", EMBEDS_VERSION, of_encoder, common)
        if self.team.size > 1 and any(map(hashing.is_transient, keys.values())):
            raise DissectError(
                "several processes can't share a network with attributes that can't be hashed (the "
                "warning above names them): remove them from the network, or use one process"
            )
        if not self.team.all_equal(hashing.hash_values(keys)):
            raise DissectError(
                "the processes of this job don't agree on the network, its code, the images or the "
                "settings: they must see the same files (random weights need a seed)"
            )
        return keys

    def _key(self, layer: str, of_target: Any, common: Any) -> str:
        kind = ("top activations", self.top_k) if self._keeps_top_k(layer) else ("activations",)
        reading = self.readings[layer].facts
        digest = self.digests.get(digest_name(layer))
        latents = () if digest is None else (LATENTS_VERSION, digest)
        parts = (*kind, ACTIVATIONS_VERSION, of_target, layer, reading, common, *latents)
        return hashing.hash_values(*parts)

    def _keeps_top_k(self, layer: str) -> bool:
        return self.settings.keeps_top_k(layer in self.latents)

    def _writer(self, probe: Probe, name: str, key: str) -> ShardWriter:
        network = self.encoder if name == EMBEDS and self.encoder else self.target
        about = {
            "what": name,
            "probe": probe.name,
            "images": len(probe),
            "of": network.name,
            "precision": self.settings.numeric,
        }
        series = self.store.series(key)
        if name == EMBEDS or not self._keeps_top_k(name):
            return ShardWriter(series, about)
        return TopKWriter(series, {**about, "top_k": self.top_k}, self.top_k, self.team.rank)

    def _nondeterministic(self, probe: Probe, names: Sequence[str]) -> dict[str, str]:
        """Return the names that must not be cached, by the leader's trial."""
        reasons: dict[str, str] = {}
        if self.team.leads and names:
            with self.timers.stage("forward"):
                reasons = determinism.nondeterministic(
                    self.target, self.encoder, probe, names, self.readings, self.settings
                )
        reasons = self.team.broadcast(reasons)
        if reasons:
            self.store.share_transient(self.team)
        self.reasons.update(reasons)
        return reasons

    def features(
        self, probe: Probe, shards: dict[str, list[Shard]], computed: tuple[str, ...]
    ) -> CapturedFeatures:
        """Return the features of a probe part on the images that all arrays have."""
        skipped = {
            name: {i: reason for shard in parts for i, reason, _ in shard.about["skipped"]}
            for name, parts in shards.items()
        }
        unreadable = {i: reason for reasons in skipped.values() for i, reason in reasons.items()}
        readable = [i for i in range(len(probe)) if i not in unreadable]
        if unreadable and probe.on_error == "raise":
            first = min(unreadable)
            raise DissectError(f"can't read {probe.images[first]}: {unreadable[first]}")
        if not readable:
            raise DissectError(
                f"none of the {len(probe)} images of probe {probe.name} can be read; "
                f"the first: {unreadable[0]}"
            )
        # Rows can be dropped afterwards; top-k lists cannot, because the next image would have to
        # move up.
        of_layers = {layer: skipped[layer] for layer in self.layers if self._keeps_top_k(layer)}
        check_still_readable(probe.images, of_layers, unreadable)
        masks = {
            name: torch.tensor([i not in unreadable for i in range(len(probe)) if i not in absent])
            for name, absent in skipped.items()
        }
        readers: dict[str, Callable[[], Activations]] = {
            layer: partial(_read_top_k, shards[layer], len(probe), readable)
            if self._keeps_top_k(layer)
            else partial(_read_rows, shards[layer], masks[layer])
            for layer in self.layers
        }
        firing = {
            layer: partial(_read_firing, shards[layer], masks[layer], self._keeps_top_k(layer))
            for layer in self.latents
        }
        return CapturedFeatures(
            images=tuple(probe.images[i] for i in readable),
            activations=Lazy(readers),
            firing=Lazy(firing),
            read_embeds=lambda: _read_rows(shards[EMBEDS], masks[EMBEDS]),
            computed=computed,
            digests={**self.digests, "images": probe.digest},
            skipped={probe.images[i]: reason for i, reason in sorted(unreadable.items())},
            shards=tuple(shard for parts in shards.values() for shard in parts),
        )


def _complete(writers: Mapping[str, ShardWriter]) -> dict[str, list[Shard]]:
    shards = {name: writer.series.complete() for name, writer in writers.items()}
    return {name: parts for name, parts in shards.items() if parts is not None}


def _read_firing(shards: Sequence[Shard], mask: Bool[Tensor, " rows"], top_k: bool) -> Firing:
    if not top_k:
        return Firing.of(_read_rows(shards, mask, "shares"))
    firing = read_firing(shards[0])
    assert firing is not None  # some image is readable
    return firing


def _read_rows(
    shards: Sequence[Shard], mask: Bool[Tensor, " rows"], name: str = "values"
) -> Float[Tensor, "images n"]:
    """Return an entry's rows: memory-mapped if one file holds exactly these, else copied."""
    arrays = (shard.arrays() for shard in shards)
    parts = [of_shard[name] for of_shard in arrays if len(of_shard["values"])]
    if len(parts) == 1 and bool(mask.all()):
        return parts[0]
    out = torch.empty(int(mask.sum()), parts[0].shape[1], dtype=torch.float32)
    read = written = 0
    while parts:
        part = parts.pop(0)  # frees its memory-mapped pages
        of_part = mask[read : read + len(part)]
        rows = part if bool(of_part.all()) else part[of_part]
        out[written : written + len(rows)] = rows
        read, written = read + len(part), written + len(rows)
    return out


def _read_top_k(shards: Sequence[Shard], images: int, readable: Sequence[int]) -> TopKActivations:
    top_k = read_top_k(shards[0])
    assert top_k is not None  # some image is readable
    positions = torch.full((images,), -1)
    positions[torch.tensor(readable)] = torch.arange(len(readable))
    return top_k.renumbered(positions, len(readable))
