"""Predict the class from the description of the most contributing unit (appendix A.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from clipdissect.datasets.class_names import imagenet_names, synsets
from clipdissect.errors import DissectError
from clipdissect.evaluation import Resampling
from clipdissect.evaluation.vectors import Vectors
from clipdissect.probe import Probe
from clipdissect.studies.numbers import check_least, image_labels, share
from clipdissect.studies.weight_similarity import Pairs

Classes = Int[np.ndarray, " images"]  # each image's class
Units = Int[np.ndarray, " images"]  # each image's unit


@dataclass(frozen=True, kw_only=True)
class ClassFromDescriptions:
    """Settings of the study.

    Args:
        layer: whose units are described; by default the target's last layer before `into`.
        into: linear layer fed by `layer`, units are classes; by default the class layer.
        shuffles: random permutations of the descriptions over the units, for the control.
        panels: images in the figure; 0 disables it.
        panel_images: top images of each image's unit.
    """

    layer: str | None = None
    into: str | None = None
    shuffles: int = 100
    panels: int = 8
    panel_images: int = 4

    def __post_init__(self) -> None:
        check_least(self, shuffles=1, panels=0, panel_images=1)


def label_numbers(probe: Probe, images: Sequence[str], names: Sequence[str]) -> Classes:
    """Return each image's class by the probe's labels; -1 if its label is no class."""
    number = {name: i for i, name in enumerate(names)}
    # Labels may also be WordNet ids of ImageNet classes.
    for name, wordnet_id in zip(imagenet_names(), synsets(), strict=True):
        if name in number:
            number[wordnet_id] = number[name]
    labels = image_labels(probe)
    numbers = np.array([number.get(labels[image] or "", -1) for image in images])
    if not (numbers >= 0).any():
        raise DissectError(
            f"no image of probe {probe.name} has a label that is one of the classes: use a "
            f"labelled probe, such as imagenet_val, or probe=folder with probe.labels=folders"
        )
    return numbers


def largest_contributions(
    weights: Pairs,
    q: Float[np.ndarray, "images inputs"],
    predicted: Classes,
    described: Int[np.ndarray, " units"],
) -> Units:
    """Return each image's unit with the largest weight (into its prediction) x activation."""
    largest = np.empty(len(q), dtype=int)
    for start in range(0, len(q), 1024):
        part = slice(start, start + 1024)
        largest[part] = (weights[predicted[part]] * q[part])[:, described].argmax(1)
    units: Units = described[largest]
    return units


def nearest_classes(
    vectors: Vectors, labels: Sequence[str], names: Sequence[str]
) -> Int[np.ndarray, " units"]:
    """Return the class most similar to each description; -1 for an empty description."""
    distinct = [text for text in dict.fromkeys(labels) if text]
    nearest = (vectors.of(distinct) @ vectors.of(names).T).argmax(1)
    number = dict(zip(distinct, nearest.tolist(), strict=True))
    return np.array([number.get(text, -1) for text in labels])


def measured(
    units: Units,
    nearest: Int[np.ndarray, " units"],
    truth: Classes,
    predicted: Classes,
    study: ClassFromDescriptions,
    resampling: Resampling,
) -> dict[str, Any]:
    """Return how often the unit's description gives the class, with controls, JSON-able."""
    targets = {"truth": truth, "prediction": predicted}
    results: dict[str, Any] = {
        name: share(nearest[units] == classes, resampling) for name, classes in targets.items()
    }
    generator = np.random.default_rng(resampling.seed)
    described = (nearest >= 0).nonzero()[0]
    agreements: dict[str, list[float]] = {name: [] for name in targets}
    for _ in range(study.shuffles):
        shuffled = nearest.copy()
        shuffled[described] = nearest[generator.permutation(described)]
        for name, classes in targets.items():
            agreements[name].append(float((shuffled[units] == classes).mean()))
    results["controls"] = {}
    for name, classes in targets.items():
        counts = np.unique(classes, return_counts=True)[1]
        results["controls"][name] = {
            "shuffled": {"mean": float(np.mean(agreements[name])), "most": max(agreements[name])},
            "best_constant": float(counts.max() / len(classes)),
        }
    return results


def table(
    images: Sequence[str],
    truth: Classes,
    predicted: Classes,
    units: Units,
    labels: Sequence[str],
    nearest: dict[str, Int[np.ndarray, " units"]],
    names: Sequence[str],
) -> pd.DataFrame:
    """Return `image, truth, predicted, unit, description`, and each encoder's `<name>_class`."""
    words = np.array([*names, ""], dtype=object)  # -1, no class, is the last
    columns = {
        "image": list(images),
        "truth": words[truth],
        "predicted": words[predicted],
        "unit": units,
        "description": [labels[i] for i in units],
    }
    columns |= {f"{name}_class": words[classes[units]] for name, classes in nearest.items()}
    rows: pd.DataFrame = pd.DataFrame(columns)
    return rows
