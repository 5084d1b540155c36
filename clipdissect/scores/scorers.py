"""The scorers: what `score` can compute, each from a `HeldOut`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.scores.ablation import LinearHead, ablation_scores, head_of
from clipdissect.scores.base import Pairs, Scorer, Scores, Unavailable
from clipdissect.scores.cosy import capture_text_images, cosy_scores
from clipdissect.scores.held_out import HeldOut, Rows
from clipdissect.scores.image_labels import ImageLabels, of_probe
from clipdissect.scores.label_metrics import pair_metrics
from clipdissect.scores.simulation import (
    PUBLISHED,
    Calibration,
    check_encoders,
    fit_calibration,
    simulate,
    simulation_scores,
)
from clipdissect.text_images import TextImages

NEEDS_ENCODER = (
    "it needs an encoder other than the one that made the labels: scorer.encoder=NAME "
    "(clipdissect score --help lists encoders)"
)


class Simulator:
    """Predicts activations from a text alone: `sigmoid(scale * (cosine + bias))`.

    Source: Oikarinen & Weng, "Linear Explanations for Individual Neurons", ICML 2024.
    """

    def __init__(self, held_out: HeldOut, allow_same: bool) -> None:
        if held_out.encoder is None:
            raise Unavailable(NEEDS_ENCODER)
        self.held_out = held_out
        notes = [
            note
            for describer in held_out.describers
            if (note := check_encoders(describer, held_out.encoder, allow_same))
        ]
        self.facts: dict[str, Any] = {
            "encoder": held_out.encoder.name,
            "calibration": self.calibration.facts if self.calibration else None,
            "notes": [*held_out.encoder.notes, *notes],
        }

    @cached_property
    def calibration(self) -> Calibration | None:
        """The published constants, else fitted to the probe's labels; None without either."""
        encoder = self.held_out.encoder
        assert encoder is not None
        if encoder.name in PUBLISHED:
            return PUBLISHED[encoder.name]
        labels = image_labels(self.held_out, self.held_out.fit)
        if labels is None:
            return None
        cosines = self._cosines(self.held_out.fit, list(labels.names))
        return fit_calibration(cosines, labels.matrix)

    def __call__(self, rows: Rows, texts: Sequence[str]) -> Float[Tensor, "rows texts"]:
        return simulate(self._cosines(rows, list(texts)), self.calibration)

    def _cosines(self, rows: Rows, texts: list[str]) -> Float[Tensor, "rows texts"]:
        return self.held_out.embeds(rows) @ self.held_out.embed_texts(texts).T


class Simulation(Scorer):
    """Correlation of activations with those predicted from the text by another encoder."""

    name: ClassVar[str] = "simulation"

    def __init__(self, held_out: HeldOut, options: Any) -> None:
        self.held_out = held_out
        self.simulator = Simulator(held_out, options.same_encoder)
        self.facts = self.simulator.facts

    def score(self, layer: str, pairs: Pairs, texts: Sequence[str]) -> Scores:
        test = self.held_out.test
        activations = self.held_out.activations(layer, test)
        return simulation_scores(activations, self.simulator(test, texts), pairs)


class Ablation(Scorer):
    """What is left of the network's answer with simulated in place of real activations."""

    name: ClassVar[str] = "ablation"


class LabelMetrics(Scorer):
    """Metrics of activations and the images' labels, of descriptions that are labels.

    Source: see `label_metrics`.
    """

    name: ClassVar[str] = "label_metrics"

    def __init__(self, held_out: HeldOut, options: Any) -> None:
        self.held_out, self.alpha = held_out, options.alpha
        try:
            self.labels = of_probe(held_out.probe, held_out.images(held_out.test))
        except DissectError as error:
            raise Unavailable(str(error)) from error
        shown = int(self.labels.matrix.any(0).sum())
        self.facts = {"labels": len(self.labels.names), "shown": shown, "alpha": self.alpha}

    def pool(self, vocabulary: Sequence[str]) -> Sequence[str]:
        return self.labels.names

    def score(self, layer: str, pairs: Pairs, texts: Sequence[str]) -> Scores:
        columns = [self.labels.column_of(text) for text in texts]
        numbers = np.array([-1 if column is None else column for column in columns])[pairs.texts]
        known = numbers >= 0
        activations = self.held_out.activations(layer, self.held_out.test)
        found = pair_metrics(
            activations, self.labels, Pairs(pairs.units[known], numbers[known]), alpha=self.alpha
        )
        return {name: _scatter(values, known) for name, values in found.items()}


class Cosy(Scorer):
    """How much more a unit fires on images of its text than on the test images."""

    name: ClassVar[str] = "cosy"


def _scatter(
    values: Float[np.ndarray, " known"], known: Bool[np.ndarray, " pairs"]
) -> Float[np.ndarray, " pairs"]:
    result = np.full(len(known), np.nan)
    result[known] = values
    return result
