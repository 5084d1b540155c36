"""Ablation scores: how well simulated activations of a unit keep the network's losses.

Source: Oikarinen & Weng, "Linear Explanations for Individual Neurons", ICML 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import asinh, ceil, log, pi

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.polynomial import chebyshev
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.scores.base import Pairs, Scores
from clipdissect.scores.heads import LinearHead
from clipdissect.scores.simulation import simulation_scores
from clipdissect.similarity import checks
from clipdissect.utils.progress import progress

TEMPERATURE = 1.1  # that the paper's logits are divided by
STEPS, RATE = 100, 1e-2  # of Adam, over all validation images at once
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # Adam's usual ones
# No step of Adam is longer than RATE * (1 - beta1) / sqrt(1 - beta2) (Kingma & Ba, section 2.1).
_FARTHEST = STEPS * RATE * (1 - _BETA1) / (1 - _BETA2) ** 0.5
_ERROR = 1e-12  # of interpolated losses
_NO_EFFECT = 1e-9  # change of a loss

Changes = Float[np.ndarray, "texts images"]
Lines = tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]  # slopes and offsets


@dataclass(frozen=True)
class Part:
    """One part of a split: images that the labels weren't made from.

    Args:
        activations: of the layer.
        simulated: per text; see `Calibration.simulate`.
        classes: true class numbers; None for the network's own prediction.
    """

    activations: Float[Tensor, "images units"]
    simulated: Float[Tensor, "images texts"]
    classes: Int[Tensor, " images"] | None = None


def ablation_scores(
    head: LinearHead, validate: Part, test: Part, pairs: Pairs, mode: str = "norm"
) -> Scores:
    """Return `1 - sum|L(simulated) - L| / sum|L(mean) - L|` over the test images per pair.

    L is the cross-entropy of the logits divided by 1.1; one unit's activations are replaced by
    simulated ones, or by their mean over the validation images. 1 is best, 0 as good as the mean.
    NaN where the mean changes no loss and, with `norm`, where activations or simulated ones never
    vary.

    Args:
        mode: how simulated activations s get the unit's scale. `norm`: the z-scores of s over the
            test images, times the unit's standard deviation and its correlation with s, plus its
            mean, all three on the validation images. `optim`: `c * s + d`, with c and d (1 and 0
            at first) fitted to the numerator on the validation images by 100 steps of Adam.

    Raises:
        DissectError: inputs that don't fit together, or an unknown mode.
    """
    checks.choice("mode", mode, tuple(MODES))
    for part in (validate, test):
        _check(head, part)
    lines = MODES[mode](head, validate, test, pairs)
    means = validate.activations.double().mean(0).numpy()
    return {"ablation": _scores(_Losses(head, test), test, means, pairs, lines)}


def _check(head: LinearHead, part: Part) -> None:
    images, units = part.activations.shape
    checks.same("units", units, "activations", head.weight.shape[1], f"weights of {head.name}")
    if part.classes is None:
        return
    checks.same("images", images, "activations", len(part.classes), "the true classes")
    classes, largest = len(head.weight), int(part.classes.max())
    if not 0 <= int(part.classes.min()) <= largest < classes:
        raise DissectError(
            f"the true classes are {int(part.classes.min())} to {largest}, but {head.name} has "
            f"{classes} classes"
        )


class _Losses:
    """The losses of images as functions of one unit's activation."""

    def __init__(self, head: LinearHead, part: Part) -> None:
        logits = head.logits(part.activations) / TEMPERATURE
        self.probabilities = logits.softmax(1)
        self.classes = logits.argmax(1) if part.classes is None else part.classes
        self.weights = head.weight.double() / TEMPERATURE

    def changes(self, unit: int, low: float, high: float) -> _Curves:
        """Return the change of each loss as the activation changes by `low` to `high`."""
        # With probabilities p and the unit's weights w, a change x of the activation changes the
        # loss by log(sum_j p_j exp(w_j x)) - w_true x. That is analytic within pi / (max w - min w)
        # of the real axis, so Chebyshev's interpolation converges as fast as the ellipse in that
        # strip says, and one product gives the losses for any number of activations.
        weights = self.weights[:, unit]
        middle, half = (low + high) / 2, (high - low) / 2 + 1e-6
        rate = asinh(pi / max(float(weights.max() - weights.min()) * half, 1e-12))
        count = max(8, ceil(-log(_ERROR) / rate))
        points = chebyshev.chebpts1(count)
        exponents = weights[:, None] * torch.from_numpy(middle + half * points)
        largest = exponents.max(0).values
        sums = self.probabilities @ (exponents - largest).exp()
        losses = (sums.log() + largest - exponents[self.classes]).numpy()
        terms = chebyshev.chebvander(points, count - 1) * (2 / count)
        terms[:, 0] /= 2
        return _Curves((losses @ terms).T, middle, half)


@dataclass(frozen=True)
class _Curves:
    """Chebyshev series per image, on `middle - half` to `middle + half`."""

    terms: Float[np.ndarray, "terms images"]
    middle: float
    half: float

    def at(self, x: Changes) -> Changes:
        values: Changes = chebyshev.chebval((x - self.middle) / self.half, self.terms, False)
        return values

    @property
    def slopes(self) -> _Curves:
        return _Curves(chebyshev.chebder(self.terms) / self.half, self.middle, self.half)


def _by_unit(
    part: Part, pairs: Pairs
) -> Iterator[tuple[int, Int[np.ndarray, " some"], Float[np.ndarray, " images"], Changes]]:
    """Yield each unit, the numbers of its pairs, its activations, and those simulated per pair."""
    for unit in progress(np.unique(pairs.units), "units"):
        chosen = np.flatnonzero(pairs.units == unit)
        activations = part.activations[:, int(unit)].double().numpy()
        simulated = part.simulated[:, torch.from_numpy(pairs.texts[chosen])].T.double().numpy()
        yield int(unit), chosen, activations, simulated


def _scores(
    losses: _Losses,
    test: Part,
    means: Float[np.ndarray, " units"],
    pairs: Pairs,
    lines: Lines,
) -> Float[np.ndarray, " pairs"]:
    result = np.full(len(pairs), np.nan)
    slopes, offsets = lines
    for unit, chosen, activations, simulated in _by_unit(test, pairs):
        defined = np.isfinite(slopes[chosen])
        chosen, simulated = chosen[defined], simulated[defined]
        replaced = slopes[chosen, None] * simulated + offsets[chosen, None]
        changes = np.concatenate([np.full((1, len(activations)), means[unit]), replaced])
        changes -= activations
        curves = losses.changes(unit, float(changes.min()), float(changes.max()))
        baseline, *ablated = np.abs(curves.at(changes)).mean(1)
        if baseline > _NO_EFFECT:
            result[chosen] = 1 - np.array(ablated) / baseline
    return result


def _norm(head: LinearHead, validate: Part, test: Part, pairs: Pairs) -> Lines:
    """Return lines from simulated activations to the unit's scale, by validation statistics."""
    scores = simulation_scores(validate.activations, validate.simulated, pairs)
    activations = validate.activations.double()
    std, mean = (x.numpy()[pairs.units] for x in (activations.std(0), activations.mean(0)))
    texts, rows = np.unique(pairs.texts, return_inverse=True)
    simulated = test.simulated[:, torch.from_numpy(texts)].double()  # few of many
    text_std, text_mean = (x.numpy()[rows] for x in (simulated.std(0), simulated.mean(0)))
    varies = (simulated.amax(0) > simulated.amin(0)).numpy()[rows]
    slopes = std * np.where(varies, scores["simulation"], np.nan) / np.where(varies, text_std, 1)
    return slopes, mean - slopes * text_mean


def _optim(head: LinearHead, validate: Part, test: Part, pairs: Pairs) -> Lines:
    """Return lines from simulated activations to the unit's scale, fitted to validation losses."""
    losses = _Losses(head, validate)
    slopes, offsets = np.full((2, len(pairs)), np.nan)
    for unit, chosen, activations, simulated in _by_unit(validate, pairs):
        slopes[chosen], offsets[chosen] = _fitted(losses, unit, activations, simulated)
    return slopes, offsets


def _fitted(
    losses: _Losses, unit: int, activations: Float[np.ndarray, " images"], simulated: Changes
) -> tuple[Float[np.ndarray, " texts"], Float[np.ndarray, " texts"]]:
    farthest = (1 + _FARTHEST) * float(np.abs(simulated).max()) + _FARTHEST
    low, high = -farthest - activations.max(), farthest - activations.min()
    curves = losses.changes(unit, float(low), float(high))
    slopes = curves.slopes
    line = np.stack([np.ones(len(simulated)), np.zeros(len(simulated))])
    first, second = np.zeros_like(line), np.zeros_like(line)
    # Adam by hand: torch's imports its compiler, which takes seconds.
    for step in range(1, STEPS + 1):
        changes = line[0, :, None] * simulated + line[1, :, None] - activations
        values = curves.at(changes)
        values[np.abs(values) < _NO_EFFECT] = 0  # at a perfect fit, errors must not move it
        # The derivative of sum|change of loss|; pairs don't depend on each other.
        slope = np.sign(values) * slopes.at(changes)
        gradient = np.stack([(slope * simulated).sum(1), slope.sum(1)])
        first = _BETA1 * first + (1 - _BETA1) * gradient
        second = _BETA2 * second + (1 - _BETA2) * gradient**2
        scale = np.sqrt(second / (1 - _BETA2**step)) + _EPSILON
        line -= RATE * first / (1 - _BETA1**step) / scale
    return line[0], line[1]


MODES: dict[str, Callable[[LinearHead, Part, Part, Pairs], Lines]] = {
    "norm": _norm,
    "optim": _optim,
}
