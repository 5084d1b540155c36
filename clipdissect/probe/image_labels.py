"""Labels of a probe's images as a matrix: from classes, or from masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool
from torch import Tensor

from clipdissect.datasets.class_names import is_a_name, synonyms
from clipdissect.datasets.segmentation import COLOUR_SUFFIX, SegmentationLabels
from clipdissect.errors import DissectError
from clipdissect.probe.base import Probe


@dataclass(frozen=True)
class ImageLabels:
    """Which concepts each image shows."""

    names: tuple[str, ...]
    matrix: Bool[Tensor, "images concepts"]

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or self.matrix.shape[1] != len(self.names):
            raise ValueError(f"{len(self.names)} names, but labels {tuple(self.matrix.shape)}")

    def column_of(self, text: str) -> int | None:
        """Return the column that a text names, by any synonym and in any case; None if none.

        The first of several. Another class's whole name isn't a synonym; see `is_a_name`.
        """
        exact, by_synonym = self._columns
        if text in exact:
            return exact[text]
        column = by_synonym.get(text.casefold())
        known = column is not None and is_a_name([text], [self.names[column]])[0]
        return column if known else None

    @cached_property
    def _columns(self) -> tuple[dict[str, int], dict[str, int]]:
        exact = {name: column for column, name in enumerate(self.names)}
        for name, column in list(exact.items()):
            exact.setdefault(name.removesuffix(COLOUR_SUFFIX), column)  # but `orange` is a fruit
        by_synonym: dict[str, int] = {}
        for column, name in enumerate(self.names):
            for synonym in synonyms(name):
                by_synonym.setdefault(synonym, column)
        return exact, by_synonym


def of_probe(probe: Probe, images: Sequence[str], min_area: float = 0.0) -> ImageLabels:
    """Return the masks' concepts, or else the classes, of some of a probe's images, in that order.

    Args:
        images: names, such as `CapturedFeatures.images`.
        min_area: share of an image's pixels that a mask must cover, 0 for any pixel.

    Raises:
        DissectError: an unknown image, or a probe with neither classes nor masks.
    """
    if not 0 <= min_area <= 1:
        raise DissectError(f"min_area is {min_area}; it must be between 0 and 1")
    rows = probe.numbers(images)
    if probe.masks is not None:  # more than the one class per image that Broden's also have
        return _of_masks(probe.masks, rows, min_area)
    if probe.labels is not None:
        return _of_classes([probe.labels[row] for row in rows])
    raise DissectError(
        f"probe {probe.name} has no labels: use one with classes (probe=folder "
        "probe.labels=folders, probe=imagenet_val) or masks (probe=synthetic_broden)"
    )


def _of_classes(labels: Sequence[str | None]) -> ImageLabels:
    names = tuple(dict.fromkeys(label for label in labels if label is not None))
    columns = {name: column for column, name in enumerate(names)}
    matrix = torch.zeros(len(labels), len(names), dtype=torch.bool)
    for row, label in enumerate(labels):
        if label is not None:
            matrix[row, columns[label]] = True
    return ImageLabels(names, matrix)


def _of_masks(masks: SegmentationLabels, rows: Sequence[int], min_area: float) -> ImageLabels:
    columns = {text: column for column, text in enumerate(masks.texts)}
    matrix = torch.zeros(len(rows), len(columns), dtype=torch.bool)
    for place, row in enumerate(rows):
        for number, mask in masks.read(row).concepts().items():
            if mask.mean() >= min_area and mask.any():
                matrix[place, columns[masks.concepts[number].text]] = True
    return ImageLabels(masks.texts, matrix)
