"""The scorers: what `score` can compute, each from a `HeldOut`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.encoder.calibration import (
    UNCALIBRATED,
    Calibration,
    fit_to_labels,
    published_calibration,
    simulate,
)
from clipdissect.errors import DissectError, unknown
from clipdissect.evaluation import Resampling
from clipdissect.probe.image_labels import of_probe
from clipdissect.results.describe import scatter
from clipdissect.scores.ablation import Part, ablation_scores
from clipdissect.scores.base import Pairs, Scorer, Scores, Unavailable
from clipdissect.scores.cosy import P_VALUE, capture_text_images, cosy_scores
from clipdissect.scores.formula_values import alternatives, distinct_texts, rescaled, values_of
from clipdissect.scores.heads import LinearHead, head_of, network_inputs, true_classes
from clipdissect.scores.held_out import HeldOut, Rows
from clipdissect.scores.label_metrics import ALPHA, pair_metrics
from clipdissect.scores.simulation import simulation_scores
from clipdissect.text_images import TextImages, bind
from clipdissect.utils.type_checks import check_range, checked_fields

LEAST_ACTIVE = 10  # images, by default
FEW = 8  # images that tell which linear layer reads a layer
NEEDS_ENCODER = (
    "it needs an encoder other than the one that made the labels: scorer.encoder=NAME "
    "(clipdissect score --help lists encoders)"
)


class Simulator:
    """Predicts activations from a text alone: `sigmoid(scale * (cosine + bias))`.

    Source: Oikarinen & Weng, "Linear Explanations for Individual Neurons", ICML 2024.
    """

    def __init__(self, held_out: HeldOut) -> None:
        if held_out.encoder is None:
            raise Unavailable("; ".join(held_out.notes) or NEEDS_ENCODER)
        self.held_out, encoder = held_out, held_out.encoder
        self.calibration = published_calibration(encoder) or self._fitted()
        self.facts: dict[str, Any] = {
            "encoder": encoder.name,
            "calibration": asdict(self.calibration) if self.calibration else UNCALIBRATED,
            "notes": [*encoder.notes, *held_out.notes],
        }

    def __call__(self, rows: Rows, labels: Sequence[str]) -> Float[Tensor, "rows labels"]:
        """Return simulated activations on the rows of the held-out features.

        Those of a formula come from those of its texts; see `formulas.evaluate`.
        """
        texts = distinct_texts(labels)
        values = simulate(self._cosines(rows, texts), self.calibration)
        is_raw = self.calibration is None and texts != list(labels)
        return values_of(labels, texts, values, self._squashed(texts, values) if is_raw else None)

    def _squashed(
        self, texts: Sequence[str], cosines: Float[Tensor, "rows texts"]
    ) -> Float[Tensor, "rows texts"]:
        """Return values from 0 to 1 without a calibration, by the cosines' spread elsewhere."""
        fit = self._cosines(self.held_out.fit, texts)
        spread = fit.std(0, correction=0).clamp(min=1e-9)
        return torch.sigmoid((cosines - fit.mean(0)) / spread)

    def _fitted(self) -> Calibration | None:
        """Fit the constants to labels of images that don't score; None if there are none."""
        of, rows = self.held_out, self.held_out.fit
        return fit_to_labels(of.probe, of.images(rows), lambda texts: self._cosines(rows, texts))

    def _cosines(self, rows: Rows, texts: Sequence[str]) -> Float[Tensor, "rows texts"]:
        return self.held_out.embeds(rows) @ self.held_out.embed_texts(texts).T


class Simulation(Scorer):
    """Correlation of activations with those predicted from the text by another encoder."""

    name: ClassVar[str] = "simulation"

    def __init__(self, simulator: Simulator) -> None:
        self.held_out, self.simulator = simulator.held_out, simulator
        self.facts = simulator.facts

    def score(self, layer: str, pairs: Pairs, texts: Sequence[str]) -> Scores:
        test = self.held_out.test
        activations = self.held_out.activations(layer, test)
        return simulation_scores(activations, self.simulator(test, texts), pairs)


class Ablation(Scorer):
    """How well simulated activations keep the losses of a network whose logits the layer feeds.

    Source: as `Simulator`.
    """

    name: ClassVar[str] = "ablation"

    def __init__(self, simulator: Simulator) -> None:
        self.held_out, self.simulator = simulator.held_out, simulator
        self.heads, reasons = _heads(self.held_out)
        if not self.heads:
            raise Unavailable(reasons[-1])
        self.facts = {
            "layers": {layer: head.name for layer, head in self.heads.items()},
            "truth": self._classes(self.held_out.test)[1],
        }

    def score(self, layer: str, pairs: Pairs, texts: Sequence[str]) -> Scores:
        if layer not in self.heads:
            return {}
        validate, test = (
            Part(
                self.held_out.activations(layer, rows).cpu(),
                self.simulator(rows, texts).cpu(),
                self._classes(rows)[0],
            )
            for rows in (self.held_out.validate, self.held_out.test)
        )
        return ablation_scores(self.heads[layer], validate, test, pairs)

    def _classes(self, rows: Rows) -> tuple[Int[Tensor, " rows"] | None, str]:
        probe, images = self.held_out.probe, self.held_out.images(rows)
        labels = probe.labels and [probe.labels[i] for i in probe.numbers(images)]
        return true_classes(labels, self.held_out.target.class_names)


def _heads(held_out: HeldOut) -> tuple[dict[str, LinearHead], list[str]]:
    """Return the linear layer that each layer feeds, and why others feed none."""
    rows = held_out.test[:FEW]
    inputs = network_inputs(held_out.target, held_out.probe, held_out.images(rows))
    heads, reasons = {}, []
    for layer in held_out.target.layers:
        activations = held_out.activations(layer, rows)
        try:
            heads[layer] = head_of(held_out.target, layer, inputs, activations.cpu())
        except DissectError as error:
            reasons.append(str(error))
    return heads, reasons


class LabelMetrics(Scorer):
    """Metrics of activations and the images' labels, of descriptions that are labels.

    Units count as active on the share `alpha` of the test images; None: on `ALPHA` of them, but
    on 10 images at least.

    Source: see `label_metrics`.
    """

    name: ClassVar[str] = "label_metrics"
    takes: ClassVar[str] = "labels of the probe's images"

    def __init__(self, held_out: HeldOut, alpha: float | None = None) -> None:
        least = min(1.0, LEAST_ACTIVE / len(held_out.test))
        self.held_out = held_out
        self.alpha = max(ALPHA, least) if alpha is None else alpha
        try:
            self.labels = of_probe(held_out.probe, held_out.images(held_out.test))
        except DissectError as error:
            raise Unavailable(str(error)) from error
        shown = int(self.labels.matrix.any(0).sum())
        self.facts = {"labels": len(self.labels.names), "shown": shown, "alpha": self.alpha}

    def accepts(self, text: str) -> bool:
        return all(self.labels.column_of(part) is not None for part in distinct_texts([text]))

    def pool(self, vocabulary: Sequence[str], labels: Sequence[str]) -> Sequence[str]:
        return self.labels.names

    def score(self, layer: str, pairs: Pairs, texts: Sequence[str]) -> Scores:
        accepted = [text for text in texts if self.accepts(text)]
        parts = distinct_texts(accepted)
        columns = [column for part in parts if (column := self.labels.column_of(part)) is not None]
        values = values_of(accepted, parts, self.labels.matrix[:, columns].float())
        place = {text: number for number, text in enumerate(accepted)}
        numbers = np.array([place.get(text, -1) for text in texts], dtype=np.int64)[pairs.texts]
        known = numbers >= 0
        found = pair_metrics(
            self.held_out.activations(layer, self.held_out.test),
            rescaled(accepted, values),
            Pairs(pairs.units[known], numbers[known]),
            alpha=self.alpha,
        )
        return {name: scatter(values, known, np.nan) for name, values in found.items()}


class Cosy(Scorer):
    """How much more a unit fires on images of its text than on the test images.

    Source: Kopf et al., "CoSy: Evaluating Textual Explanations of Neurons", NeurIPS 2024.
    """

    name: ClassVar[str] = "cosy"
    takes: ClassVar[str] = "texts that text_images has images of"

    def __init__(self, held_out: HeldOut, source: TextImages | None) -> None:
        if source is None:
            raise Unavailable(
                "it needs images of the texts: text_images=folder, labelled, rendered or diffusers"
            )
        self.held_out = held_out
        own = held_out.probe.subset(held_out.probe.numbers(held_out.images(held_out.test)))
        self.source = bind(source, own)
        self.facts: dict[str, Any] = {
            "images": self.source.name,
            "digest": self.source.digest,
            "notes": list(self.source.notes),
        }
        self._known: dict[str, dict[str, Float[Tensor, "images units"] | None]] = {}

    def accepts(self, text: str) -> bool:
        """Return whether there are images of the text or, of texts joined by OR, of each."""
        parts = alternatives(text)
        return parts is not None and all(self.source.images_of(part) is not None for part in parts)

    def pool(self, vocabulary: Sequence[str], labels: Sequence[str]) -> Sequence[str]:
        return labels  # images of a whole vocabulary are more than one can make

    def score(self, layer: str, pairs: Pairs, texts: Sequence[str]) -> Scores:
        held_out = self.held_out
        parts = [alternatives(text) or [] for text in texts]
        distinct = dict.fromkeys(part for of_text in parts for part in of_text)
        self._capture([part for part in distinct if part not in self._known])
        activations = [_joined([self._known[p][layer] for p in of_text]) for of_text in parts]
        control = held_out.activations(layer, held_out.test)
        scores = cosy_scores(activations, control.cpu(), pairs)
        del scores[P_VALUE]  # not a score: larger isn't better
        return scores

    def _capture(self, texts: Sequence[str]) -> None:
        """Run all layers once on the images of texts; other layers and labels share them."""
        if not texts:
            return
        of, layers = self.held_out, self.held_out.target.layers
        found = capture_text_images(of.target, layers, self.source, texts, of.settings, of.store)
        for number, text in enumerate(texts):
            self._known[text] = {layer: found[layer][number] for layer in layers}


def _joined(
    parts: Sequence[Float[Tensor, "images units"] | None],
) -> Float[Tensor, "images units"] | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None


@dataclass(frozen=True)
class Inputs:
    """What scorers are made from."""

    held_out: HeldOut
    options: ScoreOptions

    @cached_property
    def simulator(self) -> Simulator:
        """One for all scorers: its calibration may read the labels of all images."""
        return Simulator(self.held_out)


SCORERS: dict[str, Callable[[Inputs], Scorer]] = {
    "simulation": lambda inputs: Simulation(inputs.simulator),
    "ablation": lambda inputs: Ablation(inputs.simulator),
    "cosy": lambda inputs: Cosy(inputs.held_out, inputs.options.text_images),
    "label_metrics": lambda inputs: LabelMetrics(inputs.held_out, inputs.options.alpha),
}
WITH_ENCODER = ("simulation", "ablation")


@checked_fields
@dataclass(frozen=True)
class ScoreOptions:
    """What to score, and how.

    Args:
        scores: of `SCORERS`; empty: all that have their inputs.
        text_images: where `cosy` takes images of texts from; see `clipdissect.text_images`.
        alpha: see `LabelMetrics`.
        draws: of random and of shuffled labels, per unit.
        seed: of these.
        resampling: of the intervals.
    """

    scores: Sequence[str] = ()
    text_images: TextImages | None = None
    alpha: float | None = None
    draws: int = 5
    seed: int = 0
    resampling: Resampling = field(default_factory=Resampling)

    def __post_init__(self) -> None:
        """Check names and numbers."""
        for name in self.scores:
            if name not in SCORERS:
                raise unknown("score", name, SCORERS)
        check_range("scorer.draws", self.draws, 1)
        check_range("scorer.seed", self.seed, 0)

    def scorers(self, held_out: HeldOut) -> tuple[list[Scorer], dict[str, str]]:
        """Return the scorers and why others are missing.

        Raises:
            Unavailable: a scorer of `scores` lacks an input.
        """
        inputs, found, missing = Inputs(held_out, self), [], {}
        for name in self.scores or SCORERS:
            try:
                found.append(SCORERS[name](inputs))
            except Unavailable as error:
                if self.scores:
                    raise
                missing[name] = str(error)
        return found, missing
