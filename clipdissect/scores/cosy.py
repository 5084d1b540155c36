"""CoSy: whether a unit responds more to images of its text than to other images.

Kopf et al., "CoSy: Evaluating Textual Explanations of Neurons", NeurIPS 2024. Ties and rows of
batches are treated as in the paper, not as in its code."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import ndtr
from torch import Tensor

from clipdissect.capture.capture import capture
from clipdissect.capture.settings import Settings
from clipdissect.errors import DissectError
from clipdissect.probe import Probe, join
from clipdissect.scores.base import Pairs, Scores
from clipdissect.store import Store
from clipdissect.targets import Target
from clipdissect.text_images import TextImages

log = logging.getLogger(__name__)

AUC, MAD, P_VALUE = "cosy_auc", "cosy_mad", "cosy_p"
MIN_CONTROL = 2  # images, of a standard deviation
MAX_LISTED = 5  # texts in a note

# Per text [images, units]; None for a text without images.
TextActivations = Sequence[Float[Tensor, "_ units"] | None]


def cosy_scores(
    text_activations: TextActivations, control: Float[Tensor, "control units"], pairs: Pairs
) -> Scores:
    """Return `cosy_auc`, `cosy_mad` and `cosy_p` of units on images of their texts.

    AUC is the share of (control image, image of the text) pairs in which the latter activates the
    unit more, with ties half; 0.5 is chance. MAD is the difference of the means in control standard
    deviations (n - 1), 0 for a unit that is constant on the control images. p is the two-sided
    Mann-Whitney test's: the normal approximation, corrected for ties and continuity. All are NaN
    for a text without images.

    Raises:
        DissectError: fewer than 2 control images.
    """
    if len(control) < MIN_CONTROL:
        raise DissectError(
            f"CoSy needs at least {MIN_CONTROL} control images; there are {len(control)}"
        )
    scores = {name: np.full(len(pairs), np.nan) for name in (AUC, MAD, P_VALUE)}
    units, columns = np.unique(pairs.units, return_inverse=True)
    ordered = _Control.of(control[:, torch.from_numpy(units)])
    for text, chosen in _by_text(pairs):
        images = text_activations[text]
        if images is None:
            continue
        values = images[:, torch.from_numpy(pairs.units[chosen])].T.contiguous()
        of_text = ordered.select(columns[chosen]).compare(values)
        for name, numbers in of_text.items():
            scores[name][chosen] = numbers
    return scores


def _by_text(pairs: Pairs) -> Iterator[tuple[int, Int[np.ndarray, " pairs"]]]:
    """Yield each text with its pairs' positions."""
    if not len(pairs):
        return
    order = np.argsort(pairs.texts, kind="stable")
    texts, starts = np.unique(pairs.texts[order], return_index=True)
    yield from zip(texts.tolist(), np.split(order, starts[1:]), strict=True)


@dataclass(frozen=True)
class _Control:
    """Activations on the control images, sorted per unit, and what follows from them alone."""

    ordered: Float[Tensor, "units control"]
    mean: Float[Tensor, " units"]
    std: Float[Tensor, " units"]
    ties: Float[Tensor, " units"]  # sum of t^3 - t over groups of t equal activations

    @classmethod
    def of(cls, control: Float[Tensor, "control units"]) -> _Control:
        ordered = control.T.contiguous().sort(1).values
        # Exactly 0 for a constant unit, whose mean may be rounded.
        varies = ordered[:, 0] != ordered[:, -1]
        std = ordered.double().std(1) * varies
        return cls(ordered, ordered.double().mean(1), std, _ties(_equal(ordered, ordered)))

    def select(self, units: Int[np.ndarray, " chosen"]) -> _Control:
        rows = torch.from_numpy(units)
        return _Control(self.ordered[rows], self.mean[rows], self.std[rows], self.ties[rows])

    def compare(self, values: Float[Tensor, "units images"]) -> Scores:
        """Return the scores per unit of the activations on a text's images."""
        count, images = self.ordered.shape[1], values.shape[1]
        below = torch.searchsorted(self.ordered, values)
        equal = torch.searchsorted(self.ordered, values, right=True) - below
        wins = (below.double() + equal.double() / 2).sum(1)
        difference = values.double().mean(1) - self.mean
        mad = torch.where(self.std > 0, difference / self.std, 0.0)
        own = _equal(values.sort(1).values, values)
        # Each of the `own` equal images of the text adds its share of (t + own)^3 - t^3 - own.
        joined = self.ties + (((equal + own) ** 3 - equal**3) / own - 1).sum(1)
        p = _p_values(wins.numpy(), count, images, joined.numpy())
        return {AUC: (wins / (count * images)).numpy(), MAD: mad.numpy(), P_VALUE: p}


def _equal(
    ordered: Float[Tensor, "units n"], values: Float[Tensor, "units images"]
) -> Float[Tensor, "units images"]:
    """Count the numbers in a sorted row that equal each value."""
    below = torch.searchsorted(ordered, values)
    return (torch.searchsorted(ordered, values, right=True) - below).double()


def _ties(equal: Float[Tensor, "units n"]) -> Float[Tensor, " units"]:
    # Each of the t members of a group adds t^2 - 1.
    return (equal**2 - 1).sum(1)


def _p_values(
    wins: Float[np.ndarray, " units"], control: int, images: int, ties: Float[np.ndarray, " units"]
) -> Float[np.ndarray, " units"]:
    """Return the two-sided p of Mann-Whitney's U (`wins`) by the normal approximation."""
    total = control * images
    n = control + images
    larger = np.maximum(wins, total - wins)
    std = np.sqrt(total / 12 * ((n + 1) - ties / (n * (n - 1))))
    with np.errstate(divide="ignore"):  # all equal: p is 1
        z = (larger - total / 2 - 0.5) / std
    p: Float[np.ndarray, " units"] = np.minimum(2 * ndtr(-z), 1.0)
    return p


def capture_text_images(
    target: Target,
    layers: Sequence[str],
    source: TextImages,
    texts: Sequence[str],
    settings: Settings,
    store: Store | None,
) -> dict[str, list[Float[Tensor, "_ units"] | None]]:
    """Return each text's activations per layer; None for a text without readable images.

    The network sees each image once, also where it belongs to several texts.

    Raises:
        DissectError: no text has images, or only top activations would be stored.
    """
    for layer in layers:
        if settings.keeps_top_k(layer in target.saes):
            raise DissectError(
                f"CoSy needs all activations of layer {layer}, but only the top ones are stored: "
                f"set capture.keep=full"
            )
    images = TextImageUnion.of(source, texts)
    features = capture(target, layers, None, images.probe, store, settings)
    # By name, because unreadable images have no row.
    row = {name: number for number, name in enumerate(features.images)}
    names = [[images.probe.images[number] for number in numbers] for numbers in images.numbers]
    rows = [[row[name] for name in of_text if name in row] for of_text in names]
    activations = {layer: _split(features.activations[layer], rows) for layer in layers}
    for note in notes_on_absent(source, texts, activations[layers[0]]):
        log.warning(note)
    return activations


def _split(values: Any, rows: Sequence[Sequence[int]]) -> list[Float[Tensor, "_ units"] | None]:
    return [values[list(of_text)] if of_text else None for of_text in rows]


def notes_on_absent(
    source: TextImages, texts: Sequence[str], text_activations: TextActivations
) -> tuple[str, ...]:
    """Return a note on the texts without images, if there are any."""
    pairs = zip(texts, text_activations, strict=True)
    absent = list(dict.fromkeys(text for text, images in pairs if images is None))
    if not absent:
        return ()
    listed = ", ".join(absent[:MAX_LISTED]) + (", ..." if len(absent) > MAX_LISTED else "")
    return (
        f"CoSy is undefined for {len(absent)} of {len(set(texts))} texts, of which "
        f"text_images={source.name} has no images: {listed}",
    )


@dataclass(frozen=True)
class TextImageUnion:
    """The images of all texts, without repetitions; `numbers` are those of each text."""

    probe: Probe
    numbers: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, source: TextImages, texts: Sequence[str]) -> TextImageUnion:
        """Collect the images; raise a DissectError if there are none."""
        number: dict[str, int] = {}  # by identity, which is equal only for equal pixels
        numbers: dict[str, tuple[int, ...]] = {}
        parts = []
        for text in dict.fromkeys(texts):
            probe = source.images_of(text)
            identities = _identities(probe) if probe else ()
            new: dict[str, int] = {}
            for index, identity in enumerate(identities):
                if identity not in number:
                    new.setdefault(identity, index)
            number |= {identity: len(number) + n for n, identity in enumerate(new)}
            numbers[text] = tuple(number[identity] for identity in identities)
            if probe and new:
                parts.append(replace(probe.subset(list(new.values())), name=text, parts=()))
        if not parts:
            raise _no_images(source, texts)
        # One pass over all: as a union's parts, each text would be a pass of its own.
        whole = replace(join("images of texts", parts), parts=())
        return cls(whole, tuple(numbers[text] for text in texts))


def _identities(probe: Probe) -> tuple[str, ...]:
    return probe.identities or tuple(f"{probe.digest} {image}" for image in range(len(probe)))


def _no_images(source: TextImages, texts: Sequence[str]) -> DissectError:
    example = f", such as '{texts[0]}'" if texts else ""
    return DissectError(
        f"CoSy: text_images={source.name} has images of none of the {len(texts)} texts{example}: "
        f"name its folders or labels by the texts, or choose another source "
        f"(text_images=folder, labelled, rendered or diffusers)"
    )
