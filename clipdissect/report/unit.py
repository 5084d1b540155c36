"""One unit of a run, for a terminal or a program."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from clipdissect.errors import DissectError, unknown
from clipdissect.report.loading import Run
from clipdissect.report.material import REPORT, THUMBNAILS
from clipdissect.report.truths import truth_of
from clipdissect.results.describe import NULL
from clipdissect.results.flags import COLUMN, read


@dataclass(frozen=True)
class Shown:
    """A top image.

    Args:
        name: the image's.
        activation: the unit's, on it.
        file: its thumbnail; None where there is none.
    """

    name: str
    activation: float
    file: Path | None


@dataclass(frozen=True)
class Unit:
    """What a run knows of a unit.

    Args:
        layer, number: which.
        descriptions: with their scores, best first; empty for a dead unit.
        margin: best minus second; NaN where there is none.
        flags: such as `dead`.
        null: the best score under shuffled images; NaN where the run has none.
        images: best first.
        truth: the class's name; empty without ground truth.
        others: method's name to its label.
        counts: the activation histogram; empty where there is none.
        low, high: its range.
    """

    layer: str
    number: int
    descriptions: list[tuple[str, float]]
    margin: float
    flags: tuple[str, ...]
    null: float = math.nan
    images: list[Shown] = field(default_factory=list)
    truth: str = ""
    others: dict[str, str] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)
    low: float = math.nan
    high: float = math.nan


def unit_of(run: Run, address: str) -> Unit:
    """The unit of an address such as `layer4/720`.

    Raises:
        DissectError: no such layer or unit.
    """
    layer, slash, number = address.rpartition("/")
    if not slash or not number.isdecimal():
        raise DissectError(f"'{address}' is no unit: write LAYER/NUMBER, such as {run.layers[0]}/0")
    if layer not in run.layers:
        raise unknown("layer", layer, run.layers)
    rows = run.rows(layer)
    places = rows.index[rows["unit"] == int(number)]
    if not len(places):
        raise DissectError(
            f"layer {layer} has no unit {number}; its units are {rows['unit'].min()} to "
            f"{rows['unit'].max()}"
        )
    row, truth = rows.loc[places[0]], truth_of(run, layer)
    own, unit = run.material.layers.get(layer, {}), int(number)
    histogram = {name: own[name][unit] for name in ("counts", "low", "high")
                 if unit < len(own.get(name, ()))}  # fmt: skip
    return Unit(
        layer=layer, number=unit,
        descriptions=[(row[text], float(row.get(score, math.nan)))
                      for text, score in run.columns if row[text]],
        margin=float(row["margin"]), flags=read(row[COLUMN]),
        null=float(row.get(NULL, math.nan)), images=_images(run, layer, unit),
        truth="" if truth is None else str(truth["truth"].loc[places[0]]),
        others={name: labels.get(layer, {}).get(str(unit), "")
                for name, labels in run.material.facts.get("others", {}).items()},
        **histogram,
    )  # fmt: skip


def _images(run: Run, layer: str, unit: int) -> list[Shown]:
    images = run.top_images
    rows = images[(images["layer"] == layer) & (images["unit"] == unit)].sort_values("rank")
    folder = run.folder / REPORT / THUMBNAILS
    found = []
    for name, activation in zip(rows["image"], rows["activation"], strict=True):
        file, *_ = run.material.pictures.get(str(name), [None])
        path = folder / file if file else None
        known = path if path is not None and path.is_file() else None
        found.append(Shown(str(name), float(activation), known))
    return found
