"""Units side by side: their top images and the labels of several methods (Figs. 1, 3, 7, 8)."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from clipdissect.errors import DissectError, unknown
from clipdissect.studies.numbers import check_least

SELECT = ("random", "interpretable", "listed")


@dataclass(frozen=True, kw_only=True)
class Qualitative:
    """Settings of the study.

    Args:
        select: `random` units of each layer, the most `interpretable` ones (largest score of
            `rank_by`), or those `listed` in `units`.
        count: units a layer, unless listed.
        seed: of the random units.
        units: such as `layer4:12`, where they are listed.
        labels: name of a further method to the parameters of `published` (`{path: FILE, ...}`).
        rank_by: whose score tells the most interpretable units, a name of `labels` with a score
            (IoU) or `ours`.
        unit_table: a unit of the layer of classes whose labels are judged, as in Fig. 3; None for
            no such table.
        panel_images: top images of each unit.

    Raises:
        DissectError: a value that isn't allowed.
    """

    select: str = "random"
    count: int = 6
    seed: int = 0
    units: list[str] | None = None
    labels: Any = None
    rank_by: str = "ours"
    unit_table: int | None = None
    panel_images: int = 5
    name: ClassVar[str] = "qualitative"

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.select not in SELECT:
            raise DissectError(f"study.select is '{self.select}'; it can be {', '.join(SELECT)}")
        if (self.select == "listed") != bool(self.units):
            raise DissectError("study.units, such as [layer4:12], goes with study.select=listed")
        if self.labels is not None and not isinstance(self.labels, Mapping):
            raise DissectError("study.labels must name methods: {netdissect: {path: FILE}}")
        if "ours" in (self.labels or {}):
            raise DissectError("study.labels: the name 'ours' is taken")
        if self.rank_by not in {"ours", *(self.labels or {})}:
            raise unknown("method of study.rank_by", self.rank_by, ["ours", *(self.labels or {})])
        check_least(self.name, count=(self.count, 1), panel_images=(self.panel_images, 1))


def check(
    study: Qualitative, layers: Sequence[str], classes: tuple[str, int], ranks: pd.DataFrame | None
) -> None:
    """Raise a DissectError for what doesn't suit the target; before any image is read.

    Args:
        study: the settings.
        layers: as for `choose`.
        classes: the layer of classes, and how many there are.
        ranks: as for `choose`, where they are known already.
    """
    layer, most = classes
    # How many units other layers have is known after the first images only.
    units = dict.fromkeys(layers, sys.maxsize)
    if layer in units or study.unit_table is not None:
        units[layer] = most
    for text in study.units or ():
        _listed(text, units)
    if study.unit_table is not None and not 0 <= study.unit_table < most:
        raise DissectError(
            f"study.unit_table is {study.unit_table}; {layer} has units 0 to {most - 1}"
        )
    if study.select == "interpretable" and ranks is not None:
        for name in layers:
            _ranked(ranks, name, study.rank_by)


def choose(
    study: Qualitative, layers: Sequence[str], units: Mapping[str, int], ranks: pd.DataFrame
) -> list[tuple[str, int]]:
    """Layers and units to show.

    Args:
        study: the settings.
        layers: that random or interpretable units are of, in order.
        units: layer to how many units it has, of all that listed ones can be of.
        ranks: descriptions of the method that `rank_by` names.

    Raises:
        DissectError: a listed unit that isn't there, or no scores to rank by.
    """
    if study.select == "listed":
        return [_listed(text, units) for text in study.units or ()]
    found = []
    generator = np.random.default_rng(study.seed)
    for layer in layers:
        count = min(study.count, units[layer])
        if study.select == "random":
            chosen = np.sort(generator.choice(units[layer], count, replace=False))
        else:
            own = _ranked(ranks, layer, study.rank_by)
            chosen = own.sort_values("similarity", ascending=False, kind="stable")["unit"][:count]
        found += [(layer, int(unit)) for unit in chosen]
    return found


def _ranked(ranks: pd.DataFrame, layer: str, rank_by: str) -> pd.DataFrame:
    """A layer's units with a score."""
    own: pd.DataFrame = ranks[(ranks["layer"] == layer) & ranks["similarity"].notna()]
    if not len(own):
        raise DissectError(f"{rank_by} has no scores of layer {layer} to rank by")
    return own


def _listed(text: str, units: Mapping[str, int]) -> tuple[str, int]:
    layer, colon, number = text.rpartition(":")
    if not colon or not number.isdecimal():
        raise DissectError(f"study.units has '{text}'; a unit is written as layer4:12")
    if layer not in units:
        raise unknown("layer of study.units", layer, units)
    if int(number) >= units[layer]:
        raise DissectError(f"layer {layer} has {units[layer]} units; there is no unit {number}")
    return layer, int(number)
