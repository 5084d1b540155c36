"""Label sets: made anew from the first part of the images, or taken as they are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from clipdissect import concepts as concept_sets
from clipdissect import method as methods
from clipdissect.app.build import build_group, build_groups, build_job, build_once
from clipdissect.app.scoring.sources import Source
from clipdissect.dissection import capture_features, keep_features
from clipdissect.errors import DissectError, MissingResource
from clipdissect.method import Job, Method
from clipdissect.probe import Probe
from clipdissect.scores.held_out import rows_of
from clipdissect.scores.scoring import Labels
from clipdissect.store.shards import SETTLED_S
from clipdissect.utils.type_checks import check_choice

ANEW, GIVEN, AUTO = CHOICES = ("anew", "given", "auto")
SAME_IMAGES = (
    "its labels were made from the images that score them, so its scores are too high; "
    "scorer.labels=anew makes them again from other images"
)
OVERLAP = (
    "some of the images that its labels were made from may be among those that score them, and "
    "its scores then too high; scorer.labels=anew makes the labels again from other images"
)


def is_made_anew(source: Source, choice: str, images: str) -> bool:
    """Return whether labels are to be made again; `images` is the digest of the scoring probe.

    By `auto`, those of a run on these images are, since they would know the images that score them.
    """
    check_choice("scorer.labels", choice, CHOICES)
    same_images = source.digests.get("images") == images
    if choice == GIVEN or (choice == AUTO and not same_images):
        return False
    if source.config is None and (choice == ANEW or same_images or source.run.folder.is_dir()):
        raise DissectError(
            f"{source.name} has no config (.hydra), by which its labels could be made anew from a "
            "part of the images: score it on another probe, or score the labels as they are "
            "(scorer.labels=given)"
        )
    return source.config is not None and "probe" in _method(source).needs


def given(source: Source, probe: Probe) -> Labels:
    """Return the labels as they are, to be scored on images of the probe."""
    note = ""
    if source.digests.get("images") == probe.digest:
        note = f"{source.name}: {SAME_IMAGES}"
    elif _may_share_images(source, probe):
        note = f"{source.name}: {OVERLAP}"
    return Labels(source.name, source.run.descriptions, _vocabulary(source), note=note)


def _may_share_images(source: Source, probe: Probe) -> bool:
    """Return whether a run's probe has the same name, and top images with the same names."""
    of_run = source.run.run.get("probe")
    same_name = isinstance(of_run, dict) and of_run.get("name") == probe.name
    return same_name and not set(probe.images).isdisjoint(source.run.top_images["image"])


def make_anew(source: Source, job: Job, first: Probe) -> Labels:
    """Describe the job's layers by the source's method on the first part of the images."""
    method = _method(source)
    own = replace(build_job(source.config, method), target=job.target, probe=job.probe)
    captures_features = {"encoder", "similarity"} <= set(method.needs)  # by `capture_features`
    if captures_features and not (job.target and job.target.saes):
        for each in method.jobs(own):
            _reuse_features(each, first)
    result = method.describe(replace(own, probe=first))
    texts = result.vocabulary.texts if result.vocabulary else ()
    return Labels(source.name, result.descriptions, tuple(texts), result)


def encoders_of(source: Source) -> list[Any]:
    """Return the encoders that made the labels; none if they need none or it is unknown."""
    if source.config is None or "encoder" not in _method(source).needs:
        return []
    first = Job(encoder=build_groups(source.config, ("encoder",))["encoder"])
    return [job.encoder for job in _method(source).jobs(first)]


def _reuse_features(job: Job, first: Probe) -> None:
    """Take the first part's features from those of all images, which the store often has."""
    assert job.target and job.probe
    layers = job.target.layers
    whole = capture_features(job, layers)
    if whole.computed:  # the store trusts files for reuse once their times have settled
        time.sleep(SETTLED_S)
        whole = capture_features(job, layers)
    rows = rows_of(whole, list(first.images)).tolist()
    keep_features(replace(job, probe=first), layers, whole.rows(rows, first.digest))


def _method(source: Source) -> Method:
    assert source.config is not None
    method: Method = build_group(methods.build, source.config.method)
    return method


def _vocabulary(source: Source) -> tuple[str, ...]:
    if source.config is None or "concepts" not in _method(source).needs:
        return ()
    try:
        return tuple(build_once("concepts", concept_sets.build, source.config.concepts).texts)
    except MissingResource:  # random labels are then drawn from the labels
        return ()


def layers_of(tables: Sequence[pd.DataFrame], chosen: Sequence[str] | None) -> list[str]:
    """Return the layers that all tables describe, of those chosen (None: all).

    Raises:
        DissectError: there are none.
    """
    named = [list(dict.fromkeys(map(str, table["layer"]))) for table in tables]
    common = [layer for layer in named[0] if all(layer in others for others in named[1:])]
    result = [layer for layer in common if chosen is None or layer in chosen]
    if not result:
        lists = "; ".join(", ".join(layers) for layers in named)
        of_choice = "" if chosen is None else f" among those chosen, {', '.join(chosen)}"
        raise DissectError(f"the labels have no layer in common{of_choice}: {lists}")
    return result
