"""The parts that every study builds, and the files that it saves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect import method as methods
from clipdissect.app import evaluation_job, study_job
from clipdissect.app.build import of_group
from clipdissect.evaluation.vectors import Vectors
from clipdissect.method import Job
from clipdissect.results.describe import top_images_of_layer
from clipdissect.results.manifest import provenance
from clipdissect.results.run_files import begin
from clipdissect.studies import figures
from clipdissect.studies.features import Features
from clipdissect.studies.numbers import embedded
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
            self.method = of_group(methods.build, config.method)
            self.settings = study_job.settings(config, self.method if own_labels else None)
            self.job, self.truth = study_job.job_of(config, self.method, parts)
            self.sentences = evaluation_job.sentences_of(config) if embeds_texts else {}
            self.resampling = evaluation_job.resampling_of(config)

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
        """Write tables by file stem, metrics and the manifest; track the run."""
        seconds = self.timers.seconds
        facts = study_job.completed(facts, self.config, self.sentences, seconds)
        study_job.save(self.config, self.folder, tables, metrics, facts, self.job.probe)


def facts_of(features: Features) -> dict[str, Any]:
    job, captured = features.job, features.captured
    assert job.target and job.probe and job.concepts and job.encoder and job.similarity
    parts = job.target, job.probe, job.concepts, job.encoder, job.similarity
    return provenance(*parts, job.settings, captured)


def top_images(layer: str, q: Any, images: Sequence[str], count: int) -> dict[Any, tuple[str, ...]]:
    top = top_images_of_layer(layer, q, images, count)
    return {unit: tuple(names) for unit, names in top.groupby("unit")["image"]}
