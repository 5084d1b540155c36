"""Calibration of an encoder's cosines to probabilities that an image shows a text.

Source: Oikarinen & Weng, "Linear Explanations for Individual Neurons", ICML 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from clipdissect.encoder import Encoder
from clipdissect.encoder.prompts import PromptEncoder
from clipdissect.errors import DissectError
from clipdissect.probe import Probe
from clipdissect.probe.image_labels import of_probe
from clipdissect.similarity import checks

SCALES = (0.1, 0.25, 0.5, 0.75, 1.0, *(float(a) for a in range(2, 151, 2)))
BIASES = tuple(b / 100 for b in range(-100, 101))
UNCALIBRATED = (
    "activations are simulated by the cosines of images and texts themselves: no calibration of "
    "the scorer is known, and the probe has no labels to fit one. Pearson's correlation is that of "
    "a linear simulator, Spearman's doesn't depend on the calibration"
)
# Cosines are replaced by their bin's mean, which changes a loss by at most (scale * width)^2 / 32:
# 1e-5 at the largest scale where the cosines span 0.5.
_BINS = 4096
_NUMBERS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Calibration:
    """Probability that an image shows a text: `sigmoid(scale * (cosine + bias))`."""

    scale: float
    bias: float
    source: str  # what it was fitted on

    def simulate(self, cosines: Float[Tensor, "images texts"]) -> Float[Tensor, "images texts"]:
        """Return simulated activations in 0..1."""
        return (cosines + self.bias).mul_(self.scale).sigmoid_()  # one copy: may be gigabytes


_PAPER = "of Linear Explanations (fitted on ImageNet's validation images and superclasses)"

# By the encoder's name. They hold for these weights alone, without prompt templates.
PUBLISHED = {
    "ViT-SO400M-14-SigLIP-384/webli": Calibration(58.0, -0.13, _PAPER),
    "ViT-L-16-SigLIP-384/webli": Calibration(60.0, -0.09, _PAPER),
    "ViT-L-14-336-quickgelu/openai": Calibration(58.0, -0.25, _PAPER),
}


def published_calibration(encoder: Encoder) -> Calibration | None:
    """Return the published calibration of an encoder; None if it has none, or prompt templates."""
    if isinstance(encoder, PromptEncoder) and encoder.templates:
        return None
    return PUBLISHED.get(encoder.name)


def simulate(
    cosines: Float[Tensor, "images texts"], calibration: Calibration | None
) -> Float[Tensor, "images texts"]:
    """Return simulated activations: calibrated, or else the cosines; see `UNCALIBRATED`."""
    return cosines if calibration is None else calibration.simulate(cosines)


def fit_calibration(
    cosines: Float[Tensor, "images texts"], truth: Bool[Tensor, "images texts"], fitted_on: str
) -> Calibration:
    """Return the calibration of the published grid with the least binary cross-entropy.

    Args:
        cosines: of images that aren't scored on.
        truth: whether an image shows a text.
        fitted_on: the images and labels, for the calibration's source.

    Raises:
        DissectError: other shapes, undefined cosines, or nothing but positives or negatives.
    """
    checks.matrix("cosines", cosines, "images", "texts")
    if cosines.shape != truth.shape:
        raise DissectError(
            f"cosines have shape {tuple(cosines.shape)}, their truth {tuple(truth.shape)}"
        )
    positives = int(truth.sum())
    if not 0 < positives < truth.numel():
        raise DissectError(
            f"{positives} of {truth.numel()} pairs of an image and a text are true: a calibration "
            f"takes both true and false ones, so use a probe with several labels"
        )
    positive_sum = float(cosines[truth].double().sum())
    losses = _losses(*_histogram(cosines), positives, positive_sum) / truth.numel()
    best = int(losses.argmin())
    scale, bias = SCALES[best // len(BIASES)], BIASES[best % len(BIASES)]
    images, texts = cosines.shape
    loss = float(losses.flatten()[best])
    source = f"{images} images and {texts} texts, binary cross-entropy {loss:.4f}"
    return Calibration(scale, bias, f"fitted on {fitted_on}: {source}")


def fit_to_labels(
    probe: Probe,
    images: Sequence[str],
    cosines_of: Callable[[Sequence[str]], Float[Tensor, "images texts"]],
) -> Calibration | None:
    """Fit the calibration to the labels of some of a probe's images; None if none can be fitted.

    Args:
        images: names.
        cosines_of: returns their cosines with texts.
    """
    try:
        labels = of_probe(probe, images)
        cosines = cosines_of(labels.names).cpu()
        return fit_calibration(cosines, labels.matrix, f"labels of {probe.name}")
    except DissectError:  # no labels, or only one
        return None


def _histogram(
    cosines: Float[Tensor, "images texts"],
) -> tuple[Float[Tensor, " bins"], Float[Tensor, " bins"]]:
    """Return the number of cosines and their mean per bin that isn't empty, float64."""
    low, high = (float(end) for end in torch.aminmax(cosines))
    width = max(high - low, 1e-9) / _BINS
    counts, sums = torch.zeros(2, _BINS, dtype=torch.float64).unbind()
    for part in torch.split(cosines, max(1, _NUMBERS_AT_ONCE // cosines.shape[1])):
        values = part.flatten().double().cpu()
        bins = ((values - low) / width).long().clamp_(max=_BINS - 1)
        counts += torch.bincount(bins, minlength=_BINS)
        sums += torch.bincount(bins, values, _BINS)
    filled = counts > 0
    return counts[filled], sums[filled] / counts[filled]


def _losses(
    counts: Float[Tensor, " bins"],
    means: Float[Tensor, " bins"],
    positives: int,
    positive_sum: float,
) -> Float[Tensor, "scales biases"]:
    """Return the summed binary cross-entropy at every point of the grid."""
    # -log(1 - sigmoid(z)) = softplus(z), and -log(sigmoid(z)) = softplus(z) - z: the last term,
    # over positives, is exact, and one histogram of all cosines gives the rest.
    biases = torch.tensor(BIASES, dtype=torch.float64)
    rows = []
    for scale in SCALES:
        logits = scale * (means + biases[:, None])
        rows.append(F.softplus(logits) @ counts - scale * (positive_sum + positives * biases))
    return torch.stack(rows)
