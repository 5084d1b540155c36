"""Units whose concept no probe image shows: which get its exact name? (Sec. 4.5, Fig. 4)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

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
from clipdissect.studies.numbers import check_least, judged, share


@dataclass(frozen=True, kw_only=True)
class MissingConcepts:
    """Settings of the study.

    Args:
        groups: synsets of WordNet (`dog.n.01`, or ids), each a study of its own: the classes that
            are kinds of it.
        exclude_from_probe: take the group's images out of a labelled probe, and compare with the
            same probe with them in.
        panels: units a group in the figure of images; 0 for no such figure.
        panel_images: top images of each.

    Raises:
        DissectError: no groups, or a number out of its range.
    """

    groups: list[str]
    exclude_from_probe: bool = False
    panels: int = 8
    panel_images: int = 5
    name: ClassVar[str] = "missing_concepts"

    def __post_init__(self) -> None:
        """Check the settings."""
        if not self.groups:
            raise DissectError("study.groups is empty: name synsets, such as [dog.n.01]")
        check_least(self.name, panels=(self.panels, 0), panel_images=(self.panel_images, 1))


@dataclass(frozen=True)
class Absence:
    """What a probe's own labels say of a group.

    Args:
        group: the synset's name.
        images: numbers of the images that may show it by their labels.
        unlabelled: how many images have no label.
        unplaced: labels whose meaning isn't known.
        source: where meanings come from.
    """

    group: str
    images: tuple[int, ...]
    unlabelled: int
    unplaced: tuple[str, ...]
    source: str

    @property
    def is_shown(self) -> bool:
        """Whether every image that is left has a label that means something else."""
        return not self.unlabelled and not self.unplaced

    @property
    def verdict(self) -> str:
        """In words, of the probe without `images`."""
        if self.is_shown:
            return "shown by the labels of all images"
        parts = []
        if self.unlabelled:
            parts.append(f"{self.unlabelled} images have no label")
        if self.unplaced:
            some = ", ".join(self.unplaced[:5])
            parts.append(f"{len(self.unplaced)} labels aren't known ({some})")
        return f"not shown: {'; '.join(parts)}"


def absence(probe: Probe, images: Sequence[str], group: str, hypernyms: WordNet) -> Absence:
    """Which of a probe's images may show a group, by their labels.

    A label tells what an image is filed under, not all that is in it: a dog on a photograph of a
    sofa isn't found.

    Args:
        probe: the probe.
        images: names of its readable images, which the numbers are of.
        group: a synset's name or id.
        hypernyms: what is a kind of what.

    Raises:
        DissectError: there is no such synset.
    """
    id = hypernyms.find(group)
    of_image = dict(zip(probe.images, probe.labels or [None] * len(probe), strict=True))
    labels = [of_image[image] for image in images]
    meant = {label: hypernyms.place(label) for label in {*labels} if label is not None}
    inside = {k for k, ids in meant.items() if any(hypernyms.is_below(i, id) for i in ids)}
    return Absence(
        group,
        tuple(i for i, label in enumerate(labels) if label in inside),
        sum(label is None for label in labels),
        tuple(sorted(label for label, ids in meant.items() if not ids)),
        hypernyms.source,
    )


def units_of_group(truth: ClassLabels, group: str, hypernyms: WordNet) -> list[int]:
    """Units whose class is a kind of the group.

    Raises:
        DissectError: no such synset, or no class is one.
    """
    id = hypernyms.find(group)
    found = [
        i
        for i, name in enumerate(truth.names)
        if any(hypernyms.is_below(own, id) for own in hypernyms.place(name))
    ]
    if not found:
        raise DissectError(f"none of the {len(truth.names)} classes of {truth.name} is a {group}")
    return found


def check_group(
    group: str, study: MissingConcepts, probe: Probe, truth: ClassLabels, hypernyms: WordNet
) -> int:
    """Whether a group can be studied on a probe; before any image is read.

    Args:
        group: a synset's name or id.
        study: the settings.
        probe: the probe.
        truth: the classes.
        hypernyms: what is a kind of what.

    Returns:
        How many of the probe's images are left without the group.

    Raises:
        DissectError: no such synset, or no class is one; images of the group that may not be taken
            out; a probe without labels that something is to be taken out of.
    """
    units_of_group(truth, group, hypernyms)
    if study.exclude_from_probe and probe.labels is None:
        raise DissectError(
            f"study.exclude_from_probe needs a labelled probe, and {probe.name} has no labels "
            f"(probe=folder takes them from folders with probe.labels=folders)"
        )
    out = absence(probe, probe.images, group, hypernyms).images
    if out and not study.exclude_from_probe:
        raise DissectError(
            f"{len(out)} images of probe {probe.name} show {group} by their labels: take them out "
            f"with study.exclude_from_probe=true"
        )
    return len(probe) - len(out)


@dataclass(frozen=True, eq=False)
class GroupLabels:
    """A group's units under one probe.

    Args:
        units: their labels and the truth.
        in_group: whether each unit's label is one of the group's names.
        in_group_any_synonym: whether it is any name of a class of the group.
        rows: of the descriptions, for the tables.
    """

    units: Units
    in_group: Bool[np.ndarray, " units"]
    in_group_any_synonym: Bool[np.ndarray, " units"]
    rows: pd.DataFrame


def labels_of_group(
    described: pd.DataFrame, numbers: Sequence[int], truth: ClassLabels, concepts: Concepts,
    cosines: dict[str, Vectors | str],
) -> GroupLabels:  # fmt: skip
    """The group's part of a layer's descriptions, beside the truth.

    What is undefined is decided for the group alone: its accuracy is, where no name of the group is
    among the concepts, whatever the other classes.

    Args:
        described: of the layer, one row a unit.
        numbers: the group's units.
        truth: the classes.
        concepts: what labels were chosen from.
        cosines: sentence encoder's name to embeddings of labels and classes, or why it has none.
    """
    rows = described.iloc[list(numbers)].reset_index(drop=True)
    names = [truth.names[i] for i in numbers]
    inside = rows["description"].isin(names).to_numpy(dtype=bool)
    known = {text for name in names for text in synonyms(name)}
    others = set(truth.names) - set(names)  # a class outside of the group may have such a name
    near = [text in names or (text not in others and text.casefold() in known)
            for text in rows["description"]]  # fmt: skip
    units = unit_table(rows, names, concepts.texts, cosines)
    return GroupLabels(units, inside, np.asarray(near, dtype=bool), rows)


def group_metrics(
    missing: GroupLabels, present: GroupLabels | None, concepts: Concepts,
    cosines: dict[str, Vectors | str], how: Resampling,
) -> dict[str, Any]:  # fmt: skip
    """JSON-able: the group's metrics without its images, with them, and of the controls.

    Args:
        missing: labels by the probe without the group.
        present: by the probe with it; None where it never had it.
        concepts: what labels were chosen from.
        cosines: as for `labels_of_group`.
        how: the intervals are made.

    Returns:
        `units`, `missing` (metrics, `intervals`, `in_group`: the share of labels that name some
        member of the group, and `in_group_any_synonym`), `present` and `minus_present` where there
        is one, `controls` (`best_constant`, `random`, `random_in_group`: the expectation of a
        random name of the group; `in_group` of each, which for `random` is the group's share of the
        concepts),
        `minus_best_constant`.
    """
    ready = {name: v for name, v in cosines.items() if isinstance(v, Vectors)}
    constant, labels = best_constant(missing.units, concepts.texts, ready)
    found: dict[str, Any] = {
        "units": len(missing.units.table),
        "missing": _with_share(missing, how),
        "controls": _controls(missing.units, (constant, labels), concepts.texts, ready, how),
        "minus_best_constant": difference(missing.units, constant, how),
    }
    if present is not None:
        found["present"] = _with_share(present, how)
        found["minus_present"] = difference(missing.units, present.units, how)
    return found


def _controls(
    units: Units, constant: tuple[Units, dict[str, str]], texts: Sequence[str],
    cosines: dict[str, Vectors], how: Resampling,
) -> dict[str, Any]:  # fmt: skip
    """JSON-able metrics of labels that know nothing of the network."""
    names = set(units.table["truth"])
    members = [text for text in texts if text in names]
    # A unit with a name among them is hit once in so many draws, the others never.
    own = {"top1": 1 / len(units.table)} if members else {"top1": None, "top1_reason": NO_CLASS}
    labels = constant[1] | ({"in_group": members[0]} if members else {})
    return {
        "best_constant": judged(constant[0], how)
        | {"labels": labels, "in_group": {"value": float(bool(members))}},
        "random": judged(random_labels(units, texts, cosines, how.seed), how)
        | {"in_group": {"value": len(members) / len(texts)}},
        "random_in_group": {**own, "in_group": {"value": float(bool(members))}},
    }


def _with_share(labels: GroupLabels, how: Resampling) -> dict[str, Any]:
    return judged(labels.units, how) | {
        "in_group": share(labels.in_group, how),
        "in_group_any_synonym": share(labels.in_group_any_synonym, how),
    }
