"""Build the objects that a config names."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from clipdissect import concepts, encoder, probe, sae, sentence, similarity, targets, tracking
from clipdissect import method as methods
from clipdissect.app.launch import identity, job_name, multirun
from clipdissect.capture.pooling import Summary
from clipdissect.capture.settings import Settings
from clipdissect.dissection import KeptFeatures
from clipdissect.errors import DissectError, MissingResource
from clipdissect.evaluation import Sentences
from clipdissect.results.run_files import write_json, write_table
from clipdissect.results.tables import ResultTables
from clipdissect.store import Store
from clipdissect.utils.distributed import from_environment, own_device
from clipdissect.utils.extras import install
from clipdissect.utils.files import FileIdentity, file_identity
from clipdissect.utils.memo import Memo
from clipdissect.utils.paths import store_dir

log = logging.getLogger(__name__)

Build = Callable[..., Any]

# Groups that may be missing on a machine, cheap ones first.
BUILDERS: dict[str, Build] = {
    "concepts": concepts.build,
    "sae": sae.build,
    "probe": probe.build,
    "target": targets.lazily,
    "encoder": encoder.lazily,
}
KEPT = 2  # parts of each group that a process keeps for its next jobs
_parts: dict[str, Memo[Any]] = {group: Memo(KEPT) for group in (*BUILDERS, "sentence")}
_features: Memo[KeptFeatures] = Memo(2 * KEPT)  # a method may have two encoders
_with_saes: Memo[tuple[targets.Target, sae.Sae, targets.Target]] = Memo(KEPT)


@dataclass(frozen=True, kw_only=True)
class DissectionJob(methods.Job):
    """A method with its parts; `sentences` may be the reason why they are missing."""

    method: methods.Method
    target: targets.Target
    store: Store
    sentences: Sentences
    seconds: float

    @classmethod
    def build(cls, config: Any) -> DissectionJob:
        """Build the parts of the config's method, which must need a network."""
        start = time.perf_counter()
        method = build_group(methods.build, config.method)
        if "target" not in method.needs:
            raise DissectError(
                f"method={config.method.name} describes no network's layers: use final_layer"
            )
        job = build_job(config, method)
        parts = {part.name: getattr(job, part.name) for part in fields(job)}
        sentences = _sentences(config, parts["target"])
        seconds = time.perf_counter() - start
        return cls(**parts, method=method, sentences=sentences, seconds=seconds)

    def dissect(self) -> ResultTables:
        """Describe the units; the stage `load` includes the time of `build`."""
        result = self.method.describe(self)
        result.run["seconds"] = {"load": 0.0, **result.run["seconds"]}
        result.run["seconds"]["load"] += self.seconds
        return result

    def run_worker(self) -> None:
        """Run the share of a process other than the leader of the team."""
        self.method.run_worker(self)


def build_job(config: Any, method: methods.Method, groups: Collection[str] = ()) -> methods.Job:
    """Build the parts that a method needs and the additional `groups`."""
    job = methods.Job(
        settings=settings_of(config),
        store=store_of(config),
        top=config.top,
        images=config.images,
        null=config.null_similarity and not config.objective,  # a search doesn't use it
        team=from_environment(),
        kept=_features,
    )
    build_group(tracking.build, config.tracking)  # a mistake there must not wait for the end
    if "similarity" in method.needs:
        job = replace(job, similarity=build_group(similarity.build, config.similarity))
    needed = {*method.needs, *groups}
    built = build_groups(config, {*needed, "sae"} if "target" in needed else needed)
    autoencoder = built.pop("sae", None)
    if autoencoder is not None:
        built["target"] = _with_sae(built["target"], autoencoder)
    return replace(job, **built)


def _with_sae(target: targets.Target, autoencoder: sae.Sae) -> targets.Target:
    """Return one copy of the target for all jobs, which share its features by identity."""
    key = id(target), id(autoencoder)  # kept in the memo, so that no others take these numbers

    def combine() -> tuple[targets.Target, sae.Sae, targets.Target]:
        return target, autoencoder, target.with_sae(autoencoder)

    return _with_saes.get(key, combine)[2]


def settings_of(config: Any) -> Settings:
    values = parameters(config.capture)
    summary = Summary(values.pop("summary"), values.pop("layout"))
    return Settings(**values | {"device": own_device(values["device"])}, summary=summary)


def store_of(config: Any) -> Store:
    store = Store(Path(config.paths.store or store_dir()).expanduser())
    store.root.mkdir(parents=True, exist_ok=True)  # a wrong path fails before any work
    return store


def build_groups(config: Any, groups: Collection[str] = tuple(BUILDERS)) -> dict[str, Any]:
    """Build these groups of `BUILDERS`, cheap ones first; one error names all missing data."""
    built, missing = {}, []
    for group in (name for name in BUILDERS if name in groups):
        try:
            built[group] = build_once(group, BUILDERS[group], config[group])
        except MissingResource as error:
            missing.append(f"- {group}={config[group].name} {error}")
    if missing:
        message = "this job can't run here, because something it needs isn't there:"
        hint = (
            "To try the tool without a hub or a data set: clipdissect dissect profile=offline "
            f"(needs {install('offline')})"
        )
        hints = [] if config.profile.get("name") == "offline" else [hint]
        raise DissectError("\n".join([message, *missing, *hints]))
    return built


def build_once(group: str, build: Build, config: Any) -> Any:
    """Return the part of an earlier job of this process with equal parameters, or a new one.

    A multirun thus takes code, weights and lists of images and texts as its first job in the
    process read them. Digests are of what is in memory, so a later change of a file can't lead
    to a wrong entry of the store; images are read later, so a probe is built again if one of
    their files changed, or if they aren't files.
    """
    values = parameters(config)
    key = build, repr(values)
    if group != "probe":
        return _parts[group].get(key, lambda: build(**values))

    def listed() -> tuple[probe.Probe, list[FileIdentity] | None]:
        built = build(**values)
        return built, file_identities(built)

    kept = _parts[group].get(key, listed, _is_unchanged)
    return kept[0]


def file_identities(images: probe.Probe) -> list[FileIdentity] | None:
    """Return each image file's identity; None if not all images are files."""
    paths = (images.path(index) for index in range(len(images)))
    found = [path and file_identity(path) for path in paths]
    return None if None in found else [identity for identity in found if identity]


def _is_unchanged(kept: tuple[probe.Probe, list[FileIdentity] | None]) -> bool:
    images, identities = kept
    return identities is not None and file_identities(images) == identities


def build_group(build: Build, config: Any) -> Any:
    return build(**parameters(config))


def parameters(config: Any) -> dict[str, Any]:
    """Return a group's config as plain values."""
    values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return dict(values)


def _sentences(config: Any, target: targets.Target) -> Sentences:
    """Build the encoder only if it has texts to compare: it may be a download."""
    if target.class_layer not in target.layers:
        return None
    kept: Sentences = build_once("sentence", _sentence_encoder, config.sentence)
    return kept


def _sentence_encoder(**values: Any) -> Sentences:
    try:
        return sentence.CachedSentenceEncoder(sentence.build(**values))
    except MissingResource as error:
        return error


def save(
    config: Any,
    folder: Path,
    tables: Mapping[str, Any],
    metrics: Mapping[str, Any],
    run: Mapping[str, Any],
    images: probe.Probe | None = None,
) -> None:
    """Write tables by file stem, metrics and, last, `run.json`, and track the complete run."""
    for name, table in tables.items():
        write_table(folder / f"{name}.csv", table)
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "run.json", run)
    print(f"files: {folder}")
    track(config, folder, metrics, images)


def track(
    config: Any, folder: Path, metrics: Mapping[str, Any], images: probe.Probe | None = None
) -> None:
    """Track a complete run; a failure is a warning. `images` gives the pictures of top images."""
    sweep, (number, overrides) = multirun(), identity()
    try:
        tracker: tracking.Tracker = build_group(tracking.build, config.tracking)
        values: Any = OmegaConf.to_container(config, resolve=True)
        name = sweep.name if sweep else None
        tracker(
            tracking.Finished(folder, values, metrics, job_name(), overrides, name, number, images)
        )
    except Exception as error:  # a tracker's errors have no common class
        log.warning(
            "tracking=%s failed (%s: %s); the run's files are complete",
            config.tracking.name,
            type(error).__name__,
            error,
        )
