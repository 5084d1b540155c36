"""Compare the labels of several methods on individual units (Figs. 1, 3, 7, 8)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clipdissect.errors import DissectError, unknown
from clipdissect.studies.numbers import check_least
from clipdissect.utils.type_checks import check_choice


@dataclass(frozen=True, kw_only=True)
class Qualitative:
    """Settings of the study.

    Args:
        select: `random` units per layer, the most `interpretable` (largest score of `rank_by`),
            or those `listed` in `units`.
        count: units per layer, unless listed.
        seed: for the random units.
        units: the listed units, such as `layer4:12`.
        labels: other method's name to parameters of `published` (`{path: FILE, ...}`).
        rank_by: method whose score ranks units: a name of `labels` with a score (IoU), or `ours`.
        unit_table: class-layer unit whose labels are evaluated, as in Fig. 3; None disables it.
        panel_images: top images per unit.
    """

    select: str = "random"
    count: int = 6
    seed: int = 0
    units: list[str] | None = None
    labels: Any = None
    rank_by: str = "ours"
    unit_table: int | None = None
    panel_images: int = 5

    def __post_init__(self) -> None:
        check_choice("study.select", self.select, ("random", "interpretable", "listed"))
        if (self.select == "listed") != bool(self.units):
            raise DissectError("study.units, such as [layer4:12], goes with study.select=listed")
        if self.labels is not None and not isinstance(self.labels, Mapping):
            raise DissectError("study.labels must name methods: {netdissect: {path: FILE}}")
        if "ours" in (self.labels or {}):
            raise DissectError("study.labels: the name 'ours' is taken")
        if self.rank_by not in {"ours", *(self.labels or {})}:
            raise unknown("method of study.rank_by", self.rank_by, ["ours", *(self.labels or {})])
        check_least(self, count=1, panel_images=1)


def check(
    study: Qualitative, layers: Sequence[str], classes: tuple[str, int], ranks: pd.DataFrame | None
) -> None:
    """Raise a DissectError for settings that don't suit the target, before any image is read."""
    class_layer, class_count = classes
    # The number of units of other layers is known only after the first images.
    units = dict.fromkeys(layers, sys.maxsize)
    if class_layer in units or study.unit_table is not None:
        units[class_layer] = class_count
    for text in study.units or ():
        _listed_unit(text, units)
    if study.unit_table is not None and not 0 <= study.unit_table < class_count:
        raise DissectError(
            f"study.unit_table is {study.unit_table}; {class_layer} has units 0 to "
            f"{class_count - 1}"
        )
    if study.select == "interpretable" and ranks is not None:
        for layer in layers:
            _scored_rows(ranks, layer, study.rank_by)


def choose(
    study: Qualitative, layers: Sequence[str], units: Mapping[str, int], ranks: pd.DataFrame
) -> list[tuple[str, int]]:
    """Return the layers and units to show."""
    if study.select == "listed":
        return [_listed_unit(text, units) for text in study.units or ()]
    chosen = []
    generator = np.random.default_rng(study.seed)
    for layer in layers:
        count = min(study.count, units[layer])
        if study.select == "random":
            numbers = np.sort(generator.choice(units[layer], count, replace=False))
        else:
            rows = _scored_rows(ranks, layer, study.rank_by)
            rows = rows.sort_values("similarity", ascending=False, kind="stable")
            numbers = rows["unit"][:count]
        chosen += [(layer, int(number)) for number in numbers]
    return chosen


def _scored_rows(ranks: pd.DataFrame, layer: str, rank_by: str) -> pd.DataFrame:
    rows: pd.DataFrame = ranks[(ranks["layer"] == layer) & ranks["similarity"].notna()]
    if not len(rows):
        raise DissectError(f"{rank_by} has no scores of layer {layer} to rank by")
    return rows


def _listed_unit(text: str, units: Mapping[str, int]) -> tuple[str, int]:
    layer, colon, number = text.rpartition(":")
    if not colon or not number.isdecimal():
        raise DissectError(f"study.units has '{text}'; a unit is written as layer4:12")
    if layer not in units:
        raise unknown("layer of study.units", layer, units)
    if int(number) >= units[layer]:
        raise DissectError(f"layer {layer} has {units[layer]} units; there is no unit {number}")
    return layer, int(number)
