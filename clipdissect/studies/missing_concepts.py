"""Exact-name accuracy of units whose concept no probe image shows (Sec. 4.5, Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool

from clipdissect.concepts import Concepts
from clipdissect.datasets.class_names import synonyms
from clipdissect.datasets.wordnet import WordNet
from clipdissect.errors import DissectError
from clipdissect.evaluation import ClassLabels, Resampling, Units, difference, unit_table
from clipdissect.evaluation.controls import best_constant, random_labels
from clipdissect.evaluation.units import NO_CLASS
from clipdissect.evaluation.vectors import Vectors
from clipdissect.probe import Probe
from clipdissect.studies.numbers import check_least, image_labels, metrics_with_intervals, share

# Sentence encoder to the embeddings of labels and classes, or to why there are none.
Cosines = dict[str, Vectors | str]


@dataclass(frozen=True, kw_only=True)
class MissingConcepts:
    """Settings of the study.

    Args:
        groups: WordNet synsets (`dog.n.01`, or ids), studied separately: the classes below each.
        exclude_from_probe: remove the group's images from a labelled probe, and compare with the
            whole probe.
        panels: units per group in the figure of images; 0 disables it.
        panel_images: top images per unit.
    """

    groups: list[str]
    exclude_from_probe: bool = False
    panels: int = 8
    panel_images: int = 5

    def __post_init__(self) -> None:
        if not self.groups:
            raise DissectError("study.groups is empty: name synsets, such as [dog.n.01]")
        check_least(self, panels=0, panel_images=1)


@dataclass(frozen=True)
class Absence:
    """Evidence from labels that a probe lacks a group; `unplaced` labels aren't in WordNet."""

    group: str
    images: tuple[int, ...]
    unlabelled: int
    unplaced: tuple[str, ...]
    source: str

    @property
    def is_verified(self) -> bool:
        """Whether every other image has a label with a different meaning."""
        return not self.unlabelled and not self.unplaced

    @property
    def verdict(self) -> str:
        if self.is_verified:
            return "shown by the labels of all images"
        reasons = []
        if self.unlabelled:
            reasons.append(f"{self.unlabelled} images have no label")
        if self.unplaced:
            examples = ", ".join(self.unplaced[:5])
            reasons.append(f"{len(self.unplaced)} labels aren't known ({examples})")
        return f"not shown: {'; '.join(reasons)}"


def absence(probe: Probe, images: Sequence[str], group: str, wordnet: WordNet) -> Absence:
    """Return the images that show a group by their labels, which name one object per image."""
    group_id = wordnet.find(group)
    label_of = image_labels(probe)
    labels = [label_of[image] for image in images]
    synsets = {label: wordnet.place(label) for label in {*labels} if label is not None}
    below = {
        label
        for label, ids in synsets.items()
        if any(wordnet.is_below(synset, group_id) for synset in ids)
    }
    return Absence(
        group,
        tuple(i for i, label in enumerate(labels) if label in below),
        labels.count(None),
        tuple(sorted(label for label, ids in synsets.items() if not ids)),
        wordnet.source,
    )


def units_of_group(truth: ClassLabels, group: str, wordnet: WordNet) -> list[int]:
    """Return the units whose class is below the group; raise a DissectError if none is."""
    group_id = wordnet.find(group)
    units = [
        i
        for i, name in enumerate(truth.names)
        if any(wordnet.is_below(synset, group_id) for synset in wordnet.place(name))
    ]
    if not units:
        raise DissectError(f"none of the {len(truth.names)} classes of {truth.name} is a {group}")
    return units


def check_group(
    group: str, study: MissingConcepts, probe: Probe, truth: ClassLabels, wordnet: WordNet
) -> int:
    """Return the images left without a group; raise a DissectError if it can't be studied."""
    units_of_group(truth, group, wordnet)
    if study.exclude_from_probe and probe.labels is None:
        raise DissectError(
            f"study.exclude_from_probe needs a labelled probe, and {probe.name} has no labels "
            f"(probe=folder takes them from folders with probe.labels=folders)"
        )
    images = absence(probe, probe.images, group, wordnet).images
    if images and not study.exclude_from_probe:
        raise DissectError(
            f"{len(images)} images of probe {probe.name} show {group} by their labels: remove "
            f"them with study.exclude_from_probe=true"
        )
    return len(probe) - len(images)


@dataclass(frozen=True, eq=False)
class GroupLabels:
    """A group's units under one probe, and whether labels name any class of the group."""

    units: Units
    in_group: Bool[np.ndarray, " units"]
    in_group_any_synonym: Bool[np.ndarray, " units"]
    rows: pd.DataFrame


def labels_of_group(
    described: pd.DataFrame,
    numbers: Sequence[int],
    truth: ClassLabels,
    concepts: Concepts,
    cosines: Cosines,
) -> GroupLabels:
    """Return the group's part of a layer's descriptions, with ground truth."""
    rows = described.iloc[list(numbers)].reset_index(drop=True)
    names = [truth.names[i] for i in numbers]
    group_synonyms = {text for name in names for text in synonyms(name)}
    other_names = set(truth.names) - set(names)  # may be a synonym of a class of the group
    any_synonym = [
        text in names or (text not in other_names and text.casefold() in group_synonyms)
        for text in rows["description"]
    ]
    return GroupLabels(
        unit_table(rows, names, concepts.texts, cosines),
        rows["description"].isin(names).to_numpy(dtype=bool),
        np.asarray(any_synonym, dtype=bool),
        rows,
    )


def group_metrics(
    missing: GroupLabels,
    present: GroupLabels | None,
    concepts: Concepts,
    cosines: Cosines,
    resampling: Resampling,
) -> dict[str, Any]:
    """Return the group's metrics without and with its images, and of the controls, JSON-able.

    `in_group` is the share of labels that name any class of the group; `random_in_group` is the
    expectation for a random name of the group.
    """
    available = {name: v for name, v in cosines.items() if isinstance(v, Vectors)}
    constant = best_constant(missing.units, concepts.texts, available)
    metrics: dict[str, Any] = {
        "units": len(missing.units.table),
        "missing": _with_shares(missing, resampling),
        "controls": _controls(missing.units, constant, concepts.texts, available, resampling),
        "minus_best_constant": difference(missing.units, constant[0], resampling),
    }
    if present is not None:
        metrics["present"] = _with_shares(present, resampling)
        metrics["minus_present"] = difference(missing.units, present.units, resampling)
    return metrics


def _controls(
    units: Units,
    constant: tuple[Units, dict[str, str]],
    texts: Sequence[str],
    cosines: dict[str, Vectors],
    resampling: Resampling,
) -> dict[str, Any]:
    class_names = set(units.table["truth"])
    members = [text for text in texts if text in class_names]
    constant_units, constant_labels = constant
    any_member = {"value": float(bool(members))}
    best = {
        **metrics_with_intervals(constant_units, resampling),
        "labels": constant_labels | ({"in_group": members[0]} if members else {}),
        "in_group": any_member,
    }
    random = random_labels(units, texts, cosines, resampling.seed)
    # The expected accuracy of a random member is 1 / units: each member is right for one unit.
    top1 = {"top1": 1 / len(units.table)} if members else {"top1": None, "top1_reason": NO_CLASS}
    return {
        "best_constant": best,
        "random": metrics_with_intervals(random, resampling)
        | {"in_group": {"value": len(members) / len(texts)}},
        "random_in_group": {**top1, "in_group": any_member},
    }


def _with_shares(labels: GroupLabels, resampling: Resampling) -> dict[str, Any]:
    return metrics_with_intervals(labels.units, resampling) | {
        "in_group": share(labels.in_group, resampling),
        "in_group_any_synonym": share(labels.in_group_any_synonym, resampling),
    }
