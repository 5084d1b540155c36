"""Score labels of a network's units on held-out images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from clipdissect import encoder as encoders
from clipdissect import probe as probes
from clipdissect import targets
from clipdissect.capture.capture import capture
from clipdissect.capture.settings import Settings
from clipdissect.dissection import resolve_settings, resolve_store
from clipdissect.encoder import Encoder
from clipdissect.errors import DissectError
from clipdissect.method import Job
from clipdissect.method.published import Published
from clipdissect.results.tables import ResultTables
from clipdissect.scores.held_out import HeldOut, rows_of
from clipdissect.scores.scorers import ScoreOptions
from clipdissect.scores.scoring import Labels, Scored, score_labels
from clipdissect.scores.splits import split_images
from clipdissect.store import Store
from clipdissect.targets import Target
from clipdissect.utils.hashing import Transform

SHARES = (0.1, 0.1, 0.8)  # of images that calibrate, validate and score


def score(
    labels: ResultTables | pd.DataFrame | str | Path,
    model: nn.Module | Target | Mapping[str, Any] | str,
    *,
    probe: Any,
    encoder: Encoder | Mapping[str, Any] | str | None = None,
    preprocess: Transform | None = None,
    options: ScoreOptions | None = None,
    settings: Settings | None = None,
    device: str | torch.device | None = None,
    store: Store | str | Path | None = "auto",
) -> Scored:
    """Score labels by what they predict on images that they weren't made from.

    `score(...).tables()["scores"]` has a row per unit, `score(...).metrics()` means with
    intervals next to those of control labels.

    Args:
        labels: a result of `dissect`, a table of `layer, unit, description`, or its CSV file.
        model: the network with the units; see `dissect`.
        probe: other images than those that the labels were made from; see `dissect`.
        encoder: another one than that of the labels, for `simulation` and `ablation`.
        preprocess, settings, device, store: see `dissect`.
        options: what to score; by default all that the inputs allow.

    Raises:
        DissectError: labels made from the probe's images or by the encoder, or a wrong argument.
    """
    of_run = labels.run if isinstance(labels, ResultTables) else {}
    table = _table(labels)
    target = targets.resolve(model, list(dict.fromkeys(map(str, table["layer"]))), preprocess)
    images = probes.resolve(probe)
    judge = None if encoder is None else encoders.resolve(encoder)
    _check(of_run.get("digests", {}), images.digest, judge)
    own = replace(resolve_settings(settings, device), keep="full")
    kept = resolve_store(store)
    features = capture(target, target.layers, judge, images, kept, own)
    options = options or ScoreOptions()
    split = split_images(images.images, options.seed, SHARES)
    parts = (split.describe, split.validate, split.test)
    first, validate, test = (
        rows_of(features, [images.images[i] for i in part.tolist()]) for part in parts
    )
    fit = torch.cat([first, validate])
    held_out = HeldOut(target, images, features, fit, validate, test, own, kept, judge)
    texts = (
        labels.vocabulary.texts if isinstance(labels, ResultTables) and labels.vocabulary else ()
    )
    return score_labels([Labels("labels", table, tuple(texts))], held_out, options)


def _table(labels: ResultTables | pd.DataFrame | str | Path) -> pd.DataFrame:
    if isinstance(labels, ResultTables):
        return labels.descriptions
    if not isinstance(labels, pd.DataFrame):
        return Published(path=str(labels)).describe(Job()).descriptions
    for column in ("layer", "unit", "description"):
        if column not in labels:
            raise DissectError(f"the table of labels has no column {column}")
    # pandas reads empty cells as NaN, which is no label.
    texts = labels["description"].fillna("").astype(str)
    layers = labels["layer"].astype(str)
    table: pd.DataFrame = labels.assign(layer=layers, description=texts)
    return table


def _check(digests: Mapping[str, str], images: str, encoder: Encoder | None) -> None:
    """Refuse the images and the encoder that made the labels."""
    if digests.get("images") == images:
        raise DissectError("the labels were made from these images: score them on others")
    if encoder is not None and digests.get("encoder images") == encoder.image_digest:
        raise DissectError(
            f"{encoder.name} made the labels, and agrees with their errors: score them by another "
            "encoder"
        )
