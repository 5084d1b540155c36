"""One pass over the probe: activations of the target's layers and embeddings of the images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clipdissect.capture import determinism
from clipdissect.capture.activations import Activations, TopKActivations
from clipdissect.capture.features import CapturedFeatures, LazyActivations, joined
from clipdissect.capture.hooks import find_layers
from clipdissect.capture.infer_layout import read_layers
from clipdissect.capture.networks import EMBEDS
from clipdissect.capture.output_layout import READING_VERSION, Reading
from clipdissect.capture.settings import Settings
from clipdissect.capture.shard_runner import Job, run_jobs
from clipdissect.capture.writers import Full, Sink, Top, kept_of
from clipdissect.encoder import Encoder
from clipdissect.errors import DissectError
from clipdissect.probe import Probe
from clipdissect.store import Entry, Shard, Store
from clipdissect.store.entries import Rows
from clipdissect.targets import Target
from clipdissect.utils import hashing
from clipdissect.utils.distributed import ALONE, Team, mention_threads
from clipdissect.utils.timing import Timers

log = logging.getLogger(__name__)

# Raise one of these when the code that computes the numbers changes their values.
ACTIVATIONS_VERSION = 2
EMBEDS_VERSION = 1

READINGS = "how outputs are read"  # what an entry of the store with them is
KEEP_LEAST = 100  # top images: enough for the default similarity, so that others can share them


@dataclass
class Scratch:
    """A store of one run, made when it is first needed; its folder goes with the object.

    Args:
        holder: its folder, where this process made it.
        fickle: names in it, see `randomness.fickle`.
    """

    holder: TemporaryDirectory[str] | None = None
    fickle: dict[str, str] = field(default_factory=dict)
    _store: Store | None = None

    def store(self, team: Team, kept: Store) -> Store:
        """The store; the processes of a team share a folder in the store that they all see."""
        if self._store is None:
            if team.leads:
                kept.root.mkdir(parents=True, exist_ok=True)
                place = kept.root if team.size > 1 else None
                self.holder = TemporaryDirectory(
                    prefix="clipdissect-", dir=place, ignore_cleanup_errors=True
                )
            self._store = Store(Path(team.broadcast(self.holder.name if self.holder else "")))
        return self._store


@dataclass(frozen=True)
class Capture:
    """All that a capture is about.

    Args:
        target: the network, with its preprocessing.
        layers: of the target.
        encoder: embeds the images; None where only activations are wanted.
        probe: the images.
        settings: how to run, what to keep.
        top_k: images a unit to keep where `settings.keep` is `top_k`; at least 100 are.
        team: the processes that share the work.
        stages: gets the seconds spent.
        readings: layer to how its output is read.
        scratch: where features go that must not be kept.
    """

    target: Target
    layers: tuple[str, ...]
    encoder: Encoder | None
    probe: Probe
    settings: Settings
    top_k: int = 0
    team: Team = ALONE
    stages: Timers = field(default_factory=Timers)
    readings: Mapping[str, Reading] = field(default_factory=dict)
    scratch: Scratch = field(default_factory=lambda: Scratch())

    @property
    def grid(self) -> list[Rows]:
        """The shards' images."""
        count, step = len(self.probe), self.settings.shard
        return [(start, min(start + step, count)) for start in range(0, count, step)]

    @property
    def keeps(self) -> int | None:
        """Top images a unit, or None for all activations."""
        return max(self.top_k, KEEP_LEAST) if self.settings.keep == "top_k" else None


def capture(
    target: Target, layers: Sequence[str], encoder: Encoder | None, probe: Probe,
    store: Store | None, settings: Settings, *, top_k: int = 0, team: Team = ALONE,
) -> CapturedFeatures:  # fmt: skip
    """Activations and, with an encoder, image embeddings, from the store where it has them.

    Each image is decoded once for both networks, and only networks with something missing run. An
    interrupted capture goes on after its last whole shard; processes that want the same arrays
    compute them once. In a team the leader calls this, the others `run_worker`. A union is captured
    part by part, so that parts captured before cost nothing. Outputs that aren't a function of the
    image (see `randomness`) are computed anew in each run, with a warning and a note.

    Raises:
        DissectError: unknown layer, unusable output, non-finite activations (names layer, unit and
            image), no readable image, with `keep=top_k` one that can't be read any more, a full
            disk.
    """
    holder = None
    if store is None:
        if team.size > 1:
            raise DissectError("several processes need a store that all of them see")
        holder = TemporaryDirectory(prefix="clipdissect-", ignore_cleanup_errors=True)
        store = Store(Path(holder.name))
    mention_threads(team, settings.torch_device)
    stages, scratch = Timers(), Scratch()
    with stages.stage("digests"):
        networks = _of_networks(target, layers, encoder)
        known = _readings(target, layers, settings, networks, store)
    parts = []
    for part in probe.parts or (probe,):
        what = Capture(
            target, tuple(layers), encoder, part, settings, top_k, team, stages, known, scratch
        )
        digests = {**networks, "images": part.digest}
        shards, computed = _ensure(what, _keys(what, digests), store)
        parts.append(_assemble(what, shards, computed, digests))
    found = joined(probe, parts) if probe.parts else parts[0]
    notes = determinism.notes(scratch.fickle, target.name, encoder.name if encoder else "")
    for note in notes:
        log.warning(note)
    notes += hashing.transient_notes(found.digests)
    return replace(found, holder=(holder, store, scratch), seconds=stages.seconds, notes=notes,
                   readings=known)  # fmt: skip


def run_worker(
    target: Target, layers: Sequence[str], encoder: Encoder, probe: Probe, store: Store,
    settings: Settings, *, top_k: int = 0, team: Team,
) -> None:  # fmt: skip
    """A team member's part of `capture`: its share of the images goes into the store.

    Raises:
        DissectError: as `capture`; or another process stopped.
    """
    networks, scratch = _of_networks(target, layers, encoder), Scratch()
    known = _readings(target, layers, settings, networks, store)
    for part in probe.parts or (probe,):
        what = Capture(target, tuple(layers), encoder, part, settings, top_k, team,
                       readings=known, scratch=scratch)  # fmt: skip
        _ensure(what, _keys(what, {**networks, "images": part.digest}), store)


def check_layers(model: nn.Module, layers: Sequence[str]) -> None:
    """Raise a DissectError unless there are layers, each exists, and none is named twice."""
    if not layers:
        children = ", ".join(name for name, _ in model.named_children())
        raise DissectError(
            f"no layers to dissect: set target.layers (layers=[...]), for example to some of "
            f"{children}; `clipdissect layers` lists all"
        )
    if len(set(layers)) < len(layers):
        raise DissectError(f"a layer is listed twice: {', '.join(layers)}")
    find_layers(model, layers)


def check_still_readable(
    images: Sequence[str], lacking: Mapping[str, Collection[int]], unreadable: Mapping[int, str]
) -> None:
    """Raise a DissectError where a layer's numbers come from an image that can't be read now.

    Args:
        images: names of the probe's images.
        lacking: layer to the images that it is without.
        unreadable: images that can't be read, with the reason.
    """
    for layer, absent in lacking.items():
        for lost in sorted(unreadable.keys() - set(absent)):
            raise DissectError(
                f"{images[lost]} can't be read now ({unreadable[lost]}), but it could when layer "
                f"{layer} was captured, and what is kept of that layer can't be used without it. "
                f"Mend the image, or leave it out of the probe, and run again"
            )


def _of_networks(target: Target, layers: Sequence[str], encoder: Encoder | None) -> dict[str, str]:
    """Digests of the networks and their preprocessing, after a look at the layers."""
    check_layers(target.model, layers)
    found = {
        "target": hashing.hash_model(target.model),
        "target preprocess": hashing.hash_transform(target.preprocess),
    }
    if encoder is None:
        return found
    return found | {
        "encoder images": encoder.image_digest,
        "encoder preprocess": hashing.hash_transform(encoder.preprocess),
    }


def _readings(
    target: Target, layers: Sequence[str], settings: Settings, digests: Mapping[str, str],
    store: Store,
) -> dict[str, Reading]:  # fmt: skip
    """How the layers' outputs are read: from the store, or by a trial of the network."""
    network = (digests["target"], digests["target preprocess"])
    summary = (settings.summary.kind, settings.summary.layout)
    key = hashing.hash_values(
        "readings", READING_VERSION, network, tuple(layers), summary, torch.__version__
    )
    entry = store.get(key)
    if entry is None:
        found = read_layers(target, layers, settings.summary, settings.torch_device)
        about = {"what": READINGS, "of": target.name,
                 "layers": {layer: reading.facts for layer, reading in found.items()}}  # fmt: skip
        with store.locked([key]):
            entry = store.put(key, Entry({}, about))
            store.series(key).used()
    return {layer: Reading.of_facts(layer, entry.about["layers"][layer]) for layer in layers}


def _keys(what: Capture, digests: Mapping[str, str]) -> dict[str, str]:
    """The entries' keys, which every process of the team must agree on."""
    common = (what.probe.digest, what.settings.numeric, torch.__version__)
    of_target = (digests["target"], digests["target preprocess"])
    kind = ("activations",) if what.keeps is None else ("top activations", what.keeps)
    keys = {
        layer: hashing.hash_values(
            *kind, ACTIVATIONS_VERSION, of_target, layer, what.readings[layer].facts, common
        )
        for layer in what.layers
    }
    if what.encoder is not None:
        of_encoder = (digests["encoder images"], digests["encoder preprocess"])
        keys[EMBEDS] = hashing.hash_values("image embeds", EMBEDS_VERSION, of_encoder, common)
    if what.team.size > 1 and any(map(hashing.is_transient, keys.values())):
        raise DissectError(
            "several processes can't share a network that holds what can't be looked into (the "
            "warning above names it): take that out of the network, or use one process"
        )
    if not what.team.all_equal(hashing.hash_values(keys)):
        raise DissectError(
            "the processes of this job don't agree on the network, its code, the images or the "
            "settings: they must see the same files (weights drawn at random need a seed)"
        )
    return keys


def _ensure(
    what: Capture, keys: dict[str, str], store: Store
) -> tuple[dict[str, list[Shard]], tuple[str, ...]]:
    """Compute what is missing; the leader gets everything's shards, and what was computed."""
    sinks = {name: _sink(what, name, store.series(key)) for name, key in keys.items()}
    found = _complete(sinks) if what.team.leads else {}
    wanted = what.team.broadcast([name for name in sinks if name not in found])
    computed: list[str] = []
    if wanted:
        with _locked(what.team, store, [keys[name] for name in wanted]):
            # Another process may have been faster.
            found |= _complete({n: sinks[n] for n in wanted}) if what.team.leads else {}
            computed = what.team.broadcast([name for name in wanted if name not in found])
            for name in _fickle(what, computed):
                series = what.scratch.store(what.team, store).series(keys[name])
                sinks[name] = _sink(what, name, series)
            found |= _fill(what, {name: sinks[name] for name in computed})
    for name in found:
        sinks[name].series.used()
    return found, tuple(computed)


def _fickle(what: Capture, names: Sequence[str]) -> dict[str, str]:
    """Those of the names that must not be kept; the leader's trial counts."""
    found: dict[str, str] = {}
    if what.team.leads and names:
        with what.stages.stage("forward"):
            found = determinism.nondeterministic(
                what.target, what.encoder, what.probe, names, what.readings, what.settings
            )
    found = what.team.broadcast(found)
    what.scratch.fickle.update(found)
    return found


def _fill(what: Capture, sinks: dict[str, Sink]) -> dict[str, list[Shard]]:
    missing: dict[str, list[Rows]] = {}
    if what.team.leads:
        missing = {name: sink.begin(what.grid) for name, sink in sinks.items()}
    missing = what.team.broadcast(missing)
    jobs = _jobs(what.grid, missing)
    done = len(what.grid) - len(jobs)
    if done and jobs and what.team.leads:
        log.info("going on after %d of %d shards from an earlier run", done, len(what.grid))
    run_jobs(what.target, what.encoder, what.probe, what.team.partition(jobs), sinks, what.readings,
             what.settings, what.stages)  # fmt: skip
    what.team.barrier()
    found = {}
    if what.team.leads:
        found = {name: sink.finish(what.grid) for name, sink in sinks.items()}
    what.team.barrier()
    return found


def _jobs(grid: Sequence[Rows], missing: Mapping[str, Sequence[Rows]]) -> list[Job]:
    """One job for each shard that some array lacks."""
    wanted: dict[Rows, list[str]] = {}
    for name, shards in missing.items():
        for rows in shards:
            wanted.setdefault(rows, []).append(name)
    return [Job(rows, tuple(wanted[rows])) for rows in grid if rows in wanted]


def _complete(sinks: Mapping[str, Sink]) -> dict[str, list[Shard]]:
    found = {name: sink.series.complete() for name, sink in sinks.items()}
    return {name: shards for name, shards in found.items() if shards is not None}


def _sink(what: Capture, name: str, series: Any) -> Sink:
    about = {"what": name, "probe": what.probe.name, "images": len(what.probe),
             "of": what.encoder.name if what.encoder and name == EMBEDS else what.target.name,
             "precision": what.settings.numeric}  # fmt: skip
    if name == EMBEDS or what.keeps is None:
        return Full(series, about, what.team.rank)
    return Top(series, {**about, "top_k": what.keeps}, what.keeps, what.team.rank)


@contextmanager
def _locked(team: Team, store: Store, keys: Sequence[str]) -> Iterator[None]:
    with ExitStack() as held:
        if team.leads:
            held.enter_context(store.locked(keys))
        yield


def _assemble(
    what: Capture, shards: dict[str, list[Shard]], computed: tuple[str, ...],
    digests: dict[str, str],
) -> CapturedFeatures:  # fmt: skip
    probe = what.probe
    skipped = {name: _skipped(found) for name, found in shards.items()}
    every = {i: why for reasons in skipped.values() for i, why in reasons.items()}
    readable = [i for i in range(len(probe)) if i not in every]
    if every and probe.on_error == "raise":
        first = min(every)
        raise DissectError(f"can't read {probe.images[first]}: {every[first]}")
    if not readable:
        raise DissectError(
            f"none of the {len(probe)} images of probe {probe.name} can be read; "
            f"the first: {every[0]}"
        )
    if what.keeps is not None:
        # Rows can be left out later, top images can't: another one would be among them.
        lacking = {layer: skipped[layer] for layer in what.layers}
        check_still_readable(probe.images, lacking, every)
    keep = {name: _mask(len(probe), own, every) for name, own in skipped.items()}
    readers = {name: _reader(what, shards[name], keep[name], readable) for name in what.layers}
    return CapturedFeatures(
        images=tuple(probe.images[i] for i in readable),
        activations=LazyActivations(readers),
        read_embeds=lambda: _rows(shards[EMBEDS], keep[EMBEDS]),
        computed=computed,
        digests=digests,
        skipped={probe.images[i]: why for i, why in sorted(every.items())},
    )


def _skipped(shards: Sequence[Shard]) -> dict[int, str]:
    return {i: why for shard in shards for i, why, _ in shard.about["skipped"]}


def _mask(images: int, own: Mapping[int, str], every: Mapping[int, str]) -> Bool[Tensor, " rows"]:
    """Which of an entry's rows to use: those of images that no entry lacks."""
    return torch.tensor([i not in every for i in range(images) if i not in own])


def _reader(
    what: Capture, shards: Sequence[Shard], keep: Tensor, readable: Sequence[int]
) -> Callable[[], Activations]:
    if what.keeps is None:
        return lambda: _rows(shards, keep)
    return lambda: _top(shards, len(what.probe), readable)


def _rows(shards: Sequence[Shard], keep: Bool[Tensor, " rows"]) -> Float[Tensor, "images n"]:
    """An entry's rows: mapped where they lie in one file and all are used, else copied once."""
    parts = [part for shard in shards if len(part := shard.arrays()["values"])]
    if len(parts) == 1 and bool(keep.all()):
        return parts[0]
    out = torch.empty(int(keep.sum()), parts[0].shape[1], dtype=torch.float32)
    read = written = 0
    while parts:
        part = parts.pop(0)  # and with it its pages
        mask = keep[read : read + len(part)]
        rows = part if bool(mask.all()) else part[mask]
        out[written : written + len(rows)] = rows
        read, written = read + len(part), written + len(rows)
    return out


def _top(shards: Sequence[Shard], images: int, readable: Sequence[int]) -> TopKActivations:
    kept = kept_of(shards[0])
    assert kept is not None  # some image is readable
    positions = torch.full((images,), -1)
    positions[torch.tensor(readable)] = torch.arange(len(readable))
    return kept.renumbered(positions, len(readable))
