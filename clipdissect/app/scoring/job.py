"""Build what `score` needs: labels, held-out images, scorers; then score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from clipdissect import encoder as encoders
from clipdissect import text_images
from clipdissect.app.build import build_group, build_job, parameters
from clipdissect.app.evaluation_job import resampling_of
from clipdissect.app.run_result import NOTHING
from clipdissect.app.scoring.labels import (
    encoders_of,
    given,
    is_made_anew,
    layers_of,
    make_anew,
)
from clipdissect.app.scoring.sources import Source, read_sources, restricts_layers
from clipdissect.capture.capture import capture
from clipdissect.capture.features import CapturedFeatures
from clipdissect.encoder import Encoder
from clipdissect.errors import DissectError, MissingResource
from clipdissect.method import Job
from clipdissect.probe import Probe
from clipdissect.results.manifest import check_network
from clipdissect.scores.held_out import HeldOut, rows_of
from clipdissect.scores.scorers import WITH_ENCODER, ScoreOptions
from clipdissect.scores.scoring import Labels
from clipdissect.scores.simulation import check_encoders
from clipdissect.scores.splits import Split, read_split, split_images
from clipdissect.utils.distributed import from_environment


@dataclass(frozen=True)
class ScoringJob:
    """The labels, and the images and networks that score them.

    `config` is the first run's with this job's options on top; `job` has the target with the
    scored layers, and the probe.
    """

    config: Any
    sources: list[Source]
    job: Job
    encoder: Encoder | None  # that scores
    notes: tuple[str, ...]  # on it, or why it is missing
    split: Split

    @classmethod
    def build(cls, config: Any) -> ScoringJob:
        """Build the parts and check them against the run's manifest."""
        sources = read_sources(config)
        return cls.of(sources, sources[0].config or config, [s.run.descriptions for s in sources])

    @classmethod
    def of(
        cls, sources: list[Source], config: Any, tables: Sequence[pd.DataFrame] = ()
    ) -> ScoringJob:
        """Build the parts; the layers are the target's or, if there are tables, theirs."""
        if from_environment().size > 1:
            raise DissectError("scores are computed in one process: leave out torchrun")
        job = build_job(config, NOTHING, ("target", "probe"))
        assert job.target and job.probe  # two of the groups
        layers: Sequence[str] = job.target.layers
        if tables:
            layers = layers_of(tables, layers if restricts_layers() else None)
        full = replace(job.settings, keep="full")  # scores take the activations of every image
        job = replace(job, target=replace(job.target, layers=tuple(layers)), settings=full)
        split, (encoder, notes) = _split(config.scorer, job), _scoring_encoder(config)
        if encoder is not None:
            notes = _check(encoder, sources, config.scorer.same_encoder)
        return cls(config, sources, job, encoder, notes, split)

    @property
    def probe(self) -> Probe:
        assert self.job.probe
        return self.job.probe

    @cached_property
    def first(self) -> Probe:
        """The images that labels are made from."""
        return self.probe.subset(self.split.describe.tolist())

    def labels(self) -> list[Labels]:
        """Return all labels, made anew where they would know the images that score them."""
        choice, images = self.config.scorer.labels, self.probe.digest
        return [
            make_anew(source, self.job, self.first)
            if is_made_anew(source, choice, images)
            else given(source, self.probe)
            for source in self.sources
        ]

    def options(self) -> ScoreOptions:
        """Return what to score; wrong names and numbers show before any work."""
        config, options = self.config, self.config.scorer
        return ScoreOptions(
            tuple(config.scores),
            build_group(text_images.build, config.text_images),
            options.alpha,
            options.draws,
            options.seed,
            resampling_of(config),
        )

    def held_out(self, labels: Sequence[Labels]) -> HeldOut:
        """Capture the images that score; labels as given leave the first part to them, too."""
        assert self.job.target
        features = self._features()
        parts = (self.split.describe, self.split.validate, self.split.test)
        images = ([self.probe.images[i] for i in part.tolist()] for part in parts)
        first, validate, test = (rows_of(features, names) for names in images)
        if any(label.result for label in labels):
            fit = torch.cat([first, validate])
        else:
            fit, test = validate, torch.cat([first, test])
        return HeldOut(
            self.job.target,
            self.probe,
            features,
            fit,
            validate,
            test,
            self.job.settings,
            self.job.store,
            self.encoder,
            self.notes,
        )

    def _features(self) -> CapturedFeatures:
        assert self.job.target
        target, settings, probe = self.job.target, self.job.settings, self.probe
        if target.saes:  # too many latents for all images
            rows = [*self.split.validate.tolist(), *self.split.test.tolist()]
            probe = probe.subset(sorted(rows))
        features = capture(target, target.layers, self.encoder, probe, self.job.store, settings)
        for source in self.sources:
            check_network(features, source.run.run, source.name)
        return features


def _check(encoder: Encoder, sources: Sequence[Source], allow_same: bool) -> tuple[str, ...]:
    """Return notes on what the encoder shares with those of the labels; refuse the same one."""
    describers = [d for found in map(encoders_of, sources) for d in found]
    notes = [note for d in describers for note in check_encoders(d, encoder, allow_same)]
    return tuple(dict.fromkeys(notes))


def _split(options: Any, job: Job) -> Split:
    assert job.probe
    if options.split:
        return read_split(Path(options.split).expanduser(), job.probe.images)
    return split_images(job.probe.images, options.seed, tuple(options.shares))


def _scoring_encoder(config: Any) -> tuple[Encoder | None, tuple[str, ...]]:
    """Return the encoder that scores, or None and why; an error if its scores were asked for."""
    option = config.scorer.encoder
    is_used = not config.scores or not set(WITH_ENCODER).isdisjoint(config.scores)
    if option is None or not is_used:
        return None, ()
    try:
        return encoders.resolve(option if isinstance(option, str) else parameters(option)), ()
    except MissingResource as error:
        if config.scores:
            raise
        return None, (f"{error.what}: {error.remedy}",)
