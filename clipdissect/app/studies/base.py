"""The parts that every study builds, and the files that it saves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect import method as methods
from clipdissect import studies
from clipdissect.app.build import build_group, build_job, parameters, save
from clipdissect.app.evaluation_job import resampling_of, sentences_of, truth_of
from clipdissect.errors import DissectError
from clipdissect.evaluation.vectors import Vectors
from clipdissect.method import Job
from clipdissect.results.describe import top_images_of_layer
from clipdissect.results.manifest import provenance
from clipdissect.results.run_files import begin
from clipdissect.studies import figures
from clipdissect.studies.features import Features
from clipdissect.studies.numbers import embedded
from clipdissect.utils.distributed import from_environment
from clipdissect.utils.figures import save_figure
from clipdissect.utils.timing import Timers

BAR_STYLE = {"edgecolor": "black", "linewidth": 0.6, "capsize": 2}


class StudyRun:
    """A study's parts, cheap ones first; `own_labels` accepts `method=clip_dissect` alone."""

    def __init__(
        self,
        config: Any,
        folder: Path,
        parts: Collection[str] = ("target",),
        own_labels: bool = False,
        embeds_texts: bool = True,
    ) -> None:
        self.config, self.folder, self.timers = config, folder, Timers()
        with self.timers.stage("load"):
            self.method = build_group(methods.build, config.method)
            _check(config, self.method if own_labels else None)
            self.settings: Any = build_group(studies.build, config.study)
            self.job: Any = build_job(config, self.method, parts)
            self.truth = truth_of(config, self.job.target)
            self.sentences = sentences_of(config) if embeds_texts else {}
            self.resampling = resampling_of(config)

    def job_of_layers(self, *layers: str) -> Job:
        job: Job = replace(self.job, target=replace(self.job.target, layers=layers))
        return job

    def embed(self, *texts: Sequence[str]) -> tuple[dict[str, Vectors], dict[str, str]]:
        """Return embeddings by sentence encoder, and why encoders are missing."""
        cosines = embedded(self.sentences, texts, self.job.store, self.job.settings.torch_device)
        vectors = {name: v for name, v in cosines.items() if isinstance(v, Vectors)}
        return vectors, {name: v for name, v in cosines.items() if isinstance(v, str)}

    def begin(self) -> None:
        """Mark the folder as incomplete until `save`."""
        begin(self.folder)

    def save_panels(self, panels: Sequence[figures.Panel], title: str, name: str) -> None:
        save_figure(figures.panels(panels, self.job.probe, title=title), self.folder, name)

    def save(
        self, tables: Mapping[str, pd.DataFrame], metrics: Mapping[str, Any], facts: dict[str, Any]
    ) -> None:
        """Write tables by file stem, metrics and the completed manifest; track the run."""
        config = self.config
        study = {
            "study": parameters(config.study),
            # As configured: `auto` is the target's own.
            "truth": {"name": config.evaluation.truth, "layer": config.evaluation.layer},
            "sentences": {name: getattr(e, "digest", None) for name, e in self.sentences.items()},
            "bootstrap": {"kind": "percentile", **asdict(self.resampling)},
            "seconds": {**facts.get("seconds", {}), **self.timers.seconds},
        }
        run = {**facts, "method": facts.get("method", {"name": config.method.name}), **study}
        save(config, self.folder, tables, metrics, run, self.job.probe)


def _check(config: Any, method: Any) -> None:
    if from_environment().size > 1:
        raise DissectError("the studies run in one process: leave out torchrun")
    if method is not None and method.name != "clip_dissect":
        raise DissectError(
            f"{config.study.name} makes its own labels: leave out method={config.method.name}"
        )


def facts_of(features: Features) -> dict[str, Any]:
    job, captured = features.job, features.captured
    assert job.target and job.probe and job.concepts and job.encoder and job.similarity
    parts = job.target, job.probe, job.concepts, job.encoder, job.similarity
    return provenance(*parts, job.settings, captured)


def top_images(layer: str, q: Any, images: Sequence[str], count: int) -> dict[Any, tuple[str, ...]]:
    top = top_images_of_layer(layer, q, images, count)
    return {unit: tuple(names) for unit, names in top.groupby("unit")["image"]}
