"""The objects that a config names."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from clipdissect import concepts, encoder, probe, sentence, similarity, targets, tracking
from clipdissect import method as methods
from clipdissect.app.jobs import identity, job_name, multirun
from clipdissect.capture.pooling import Summary
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError, MissingResource
from clipdissect.evaluation import Sentences
from clipdissect.results.result import Result
from clipdissect.store import Store
from clipdissect.utils.distributed import Team, from_environment, own_device
from clipdissect.utils.extras import install
from clipdissect.utils.paths import store_dir

log = logging.getLogger(__name__)

Build = Callable[..., Any]

# What may be missing on a machine, cheap ones first.
BUILDERS: dict[str, Build] = {
    "concepts": concepts.build, "probe": probe.build,
    "target": targets.build, "encoder": encoder.build,
}  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """Everything a dissection needs, built.

    Args:
        method: what describes the units.
        target: the network.
        probe, concepts, encoder, similarity: the groups' objects; None where the method needs none.
        sentences: the sentence encoder, why it is missing, or None where nothing is to compare.
        store: the feature store.
        settings: how to run the networks.
        top: descriptions a unit.
        images: top images a unit.
        null: whether to score with shuffled images too.
        team: the processes that share the job.
        seconds: how long building took.
    """

    method: methods.Method
    target: targets.Target
    sentences: Sentences
    store: Store
    settings: Settings
    top: int
    images: int
    null: bool
    team: Team
    seconds: float
    probe: probe.Probe | None = None
    concepts: concepts.Concepts | None = None
    encoder: encoder.Encoder | None = None
    similarity: similarity.Similarity | None = None

    @classmethod
    def build(cls, config: Any) -> Parts:
        """Build every part that the method needs, cheap ones first.

        Raises:
            DissectError: a method that describes no network; a mistake in the config, or one
                message on all that is missing.
        """
        start = time.perf_counter()
        team = from_environment()
        settings = settings_of(config)
        how = of_group(methods.build, config.method)
        if "target" not in how.needs:
            raise DissectError(
                f"method={config.method.name} describes no network's layers: use final_layer"
            )
        scorer = None
        if "similarity" in how.needs:
            scorer = of_group(similarity.build, config.similarity)
        of_group(tracking.build, config.tracking)
        store = store_of(config)
        built = build_groups(config, how.needs)
        return cls(
            **built, method=how, similarity=scorer, settings=settings, top=config.top,
            images=config.images, sentences=_sentences(config, built["target"]),
            # A search's trials have no use for it.
            null=config.null_similarity and not config.objective,
            store=store, team=team,
            seconds=time.perf_counter() - start,
        )  # fmt: skip

    def dissect(self) -> Result:
        """Run the dissection; its seconds count the building of the parts too."""
        result = self.method.describe(self.job)
        seconds = result.run["seconds"]
        result.run["seconds"] = {"load": 0.0, **seconds}
        result.run["seconds"]["load"] += self.seconds
        return result

    def run_worker(self) -> None:
        """What a process that doesn't lead the team does of a dissection."""
        self.method.run_worker(self.job)

    @property
    def job(self) -> methods.Job:
        """The parts as a method takes them."""
        return methods.Job(
            target=self.target, probe=self.probe, concepts=self.concepts, encoder=self.encoder,
            similarity=self.similarity, settings=self.settings, store=self.store, top=self.top,
            images=self.images, null=self.null, team=self.team,
        )  # fmt: skip


def store_of(config: Any) -> Store:
    """The feature store of the config's `paths`."""
    store = Store(Path(config.paths.store or store_dir()).expanduser())
    store.root.mkdir(parents=True, exist_ok=True)  # a wrong path fails before any work
    return store


def of_group(build: Build, config: Any) -> Any:
    """The object that a group's config names.

    Raises:
        DissectError: from `build`.
        omegaconf.MissingMandatoryValue: a parameter that must be set isn't.
    """
    return build(**parameters(config))


def parameters(config: Any) -> dict[str, Any]:
    """A group's config as plain values, its name among them."""
    values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return dict(values)


def track(
    config: Any, folder: Path, metrics: Mapping[str, Any], images: probe.Probe | None = None
) -> None:
    """Hand a complete run to the tracker; where that fails the run is none the worse, so it's told.

    Args:
        config: the job's.
        folder: with the run's files.
        metrics: as in `metrics.json`.
        images: the probe, for pictures of top images.
    """
    sweep, (number, overrides) = multirun(), identity()
    try:
        tracker: tracking.Tracker = of_group(tracking.build, config.tracking)
        plain: Any = OmegaConf.to_container(config, resolve=True)
        tracker(tracking.Finished(
            folder, plain, metrics, job_name(), overrides, sweep.name if sweep else None, number,
            images,
        ))  # fmt: skip
    except Exception as error:  # a tracker's errors have no common class
        reason = f"{type(error).__name__}: {error}"
        log.warning("tracking=%s failed (%s); the run's files are complete", config.tracking.name,
                    reason)  # fmt: skip


def build_groups(config: Any, groups: Collection[str] = tuple(BUILDERS)) -> dict[str, Any]:
    """The objects of some of the groups in `BUILDERS`, cheap ones first.

    Raises:
        DissectError: one message on all that is missing; or a mistake in one.
    """
    built, missing = {}, []
    for group in (name for name in BUILDERS if name in groups):
        try:
            built[group] = of_group(BUILDERS[group], config[group])
        except MissingResource as error:
            missing.append(f"- {group}={config[group].name} {error}")
    if missing:
        raise DissectError(
            "this job can't run here, because something it needs isn't there:\n"
            + "\n".join(missing)
            + _hint(config)
        )
    return built


def _hint(config: Any) -> str:
    if config.profile.get("name") == "offline":
        return ""
    return (
        "\nTo try the tool without a hub or a data set: clipdissect dissect profile=offline "
        f"(needs {install('offline')})"
    )


def _sentences(config: Any, chosen: targets.Target) -> Sentences:
    """The sentence encoder, only where it has something to compare: downloading it isn't free."""
    if chosen.class_layer not in chosen.layers:
        return None
    try:
        return sentence.CachedSentenceEncoder(of_group(sentence.build, config.sentence))
    except MissingResource as error:
        return error


def settings_of(config: Any) -> Settings:
    """How to run the networks, of the config's `capture`."""
    values = parameters(config.capture)
    summary = Summary(values.pop("summary"), values.pop("layout"))
    return Settings(**values | {"device": own_device(values["device"])}, summary=summary)
