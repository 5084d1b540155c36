"""Does the description of the unit behind a prediction tell the class? (released appendix A.6)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from clipdissect.datasets.class_names import imagenet_names, synsets
from clipdissect.errors import DissectError
from clipdissect.evaluation import Resampling
from clipdissect.evaluation.vectors import Vectors
from clipdissect.probe import Probe
from clipdissect.studies.correlation import Pairs
from clipdissect.studies.numbers import check_least, share


@dataclass(frozen=True, kw_only=True)
class ClassFromDescriptions:
    """Settings of the study.

    Args:
        layer: whose units are described; by default the last of the target's layers before `into`.
        into: the linear layer that they feed, whose units are classes; by default the target's
            layer of classes.
        shuffles: random shufflings of the descriptions over the units, for the control.
        panels: images in the figure; 0 for no such figure.
        panel_images: top images of each image's unit.

    Raises:
        DissectError: a number out of its range.
    """

    layer: str | None = None
    into: str | None = None
    shuffles: int = 100
    panels: int = 8
    panel_images: int = 4
    name: ClassVar[str] = "class_from_descriptions"

    def __post_init__(self) -> None:
        """Check the settings."""
        check_least(self.name, shuffles=(self.shuffles, 1), panels=(self.panels, 0),
                    panel_images=(self.panel_images, 1))  # fmt: skip


def label_numbers(
    probe: Probe, images: Sequence[str], names: Sequence[str]
) -> Int[np.ndarray, " images"]:
    """Each image's class by the probe's labels; -1 where it has none among the classes.

    A label is a class name, or the WordNet id of one of ImageNet's classes.

    Args:
        probe: the probe.
        images: names of its readable images.
        names: the classes' names.

    Raises:
        DissectError: no image has a label that is a class.
    """
    number = {name: i for i, name in enumerate(names)}
    for name, id in zip(imagenet_names(), synsets(), strict=True):
        if name in number:
            number[id] = number[name]
    of_image = dict(zip(probe.images, probe.labels or [None] * len(probe), strict=True))
    found = np.array([number.get(of_image[image] or "", -1) for image in images])
    if not (found >= 0).any():
        raise DissectError(
            f"no image of probe {probe.name} has a label that is one of the classes: use a "
            f"labelled probe, such as imagenet_val, or probe=folder with probe.labels=folders"
        )
    return found


def largest_contributions(
    weights: Pairs, q: Float[np.ndarray, "images inputs"], predicted: Int[np.ndarray, " images"],
    described: Int[np.ndarray, " units"],
) -> Int[np.ndarray, " images"]:  # fmt: skip
    """Each image's unit with the largest weight into the predicted class times activation.

    Args:
        weights: `[classes, inputs]`.
        q: activations of the inputs.
        predicted: classes.
        described: units to choose from.

    Returns:
        Numbers of units.
    """
    out = np.empty(len(q), dtype=int)
    for start in range(0, len(q), 1024):
        part = slice(start, start + 1024)
        out[part] = (weights[predicted[part]] * q[part])[:, described].argmax(1)
    chosen: Int[np.ndarray, " images"] = described[out]
    return chosen


def nearest_classes(
    vectors: Vectors, labels: Sequence[str], names: Sequence[str]
) -> Int[np.ndarray, " units"]:
    """The class whose name is most similar to each description; -1 for an empty one."""
    distinct = [text for text in dict.fromkeys(labels) if text]
    near = (vectors.of(distinct) @ vectors.of(names).T).argmax(1)
    number = dict(zip(distinct, near.tolist(), strict=True))
    return np.array([number.get(text, -1) for text in labels])


def measured(
    chosen: Int[np.ndarray, " images"], nearest: Int[np.ndarray, " units"],
    truth: Int[np.ndarray, " images"], predicted: Int[np.ndarray, " images"],
    study: ClassFromDescriptions, how: Resampling,
) -> dict[str, Any]:  # fmt: skip
    """JSON-able shares of images whose unit's description gives the class, with controls.

    Args:
        chosen: each image's unit.
        nearest: each unit's class by its description; -1 where it has none.
        truth: each image's class.
        predicted: the network's.
        study: the settings.
        how: the intervals are made.

    Returns:
        `truth` and `prediction` (agreement, interval), and `controls`: `shuffled` (mean and range
        of the agreements with descriptions shuffled over the described units), `best_constant`
        (one class for all images) and `chance`.
    """
    given = nearest[chosen]
    found: dict[str, Any] = {
        "truth": share(given == truth, how),
        "prediction": share(given == predicted, how),
    }
    generator = np.random.default_rng(how.seed)
    living = (nearest >= 0).nonzero()[0]
    drawn: dict[str, list[float]] = {"truth": [], "prediction": []}
    for _ in range(study.shuffles):
        other = nearest.copy()
        other[living] = nearest[generator.permutation(living)]
        for name, right in (("truth", truth), ("prediction", predicted)):
            drawn[name].append(float((other[chosen] == right).mean()))
    found["controls"] = {
        name: {
            "shuffled": {"mean": float(np.mean(drawn[name])), "most": max(drawn[name])},
            "best_constant": float(np.unique(right, return_counts=True)[1].max() / len(right)),
        }
        for name, right in (("truth", truth), ("prediction", predicted))
    }
    return found


def table(
    images: Sequence[str], truth: Int[np.ndarray, " images"],
    predicted: Int[np.ndarray, " images"], chosen: Int[np.ndarray, " images"],
    labels: Sequence[str], nearest: dict[str, Int[np.ndarray, " units"]], names: Sequence[str],
) -> pd.DataFrame:  # fmt: skip
    """One row a labelled image: `image, truth, predicted, unit, description`, and each sentence
    encoder's `<name>_class`.

    Args:
        images, truth, predicted, chosen: of the labelled images.
        labels: the units' descriptions.
        nearest: sentence encoder's name to the units' classes.
        names: the classes' names.
    """
    words = np.array([*names, ""], dtype=object)  # -1 is the last
    rows: pd.DataFrame = pd.DataFrame({
        "image": list(images), "truth": words[truth], "predicted": words[predicted],
        "unit": chosen, "description": [labels[i] for i in chosen],
        **{f"{name}_class": words[own[chosen]] for name, own in nearest.items()},
    })  # fmt: skip
    return rows
