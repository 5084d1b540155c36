"""One unit of a run, for the terminal or a program."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from clipdissect.errors import DissectError, unknown
from clipdissect.report.report_data import REPORT, THUMBNAILS
from clipdissect.report.run import Run
from clipdissect.results.describe import NULL
from clipdissect.results.flags import COLUMN, read


@dataclass(frozen=True)
class TopImage:
    """A top image, the unit's activation on it, and its thumbnail file, if any."""

    name: str
    activation: float
    file: Path | None


@dataclass(frozen=True)
class Unit:
    """A unit's results; lists are best first, missing numbers NaN.

    `null` is the best score with shuffled images; `counts` is the activation histogram from
    `low` to `high`; `others` maps method names to labels.
    """

    layer: str
    number: int
    descriptions: list[tuple[str, float]]
    margin: float
    flags: tuple[str, ...]
    null: float = math.nan
    images: list[TopImage] = field(default_factory=list)
    truth: str = ""
    others: dict[str, str] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)
    low: float = math.nan
    high: float = math.nan


def unit_of(run: Run, address: str) -> Unit:
    """Return the unit at an address such as `layer4/720`; raise a DissectError if absent."""
    layer, slash, digits = address.rpartition("/")
    if not slash or not digits.isdecimal():
        raise DissectError(
            f"'{address}' isn't a unit: write LAYER/NUMBER, such as {run.layers[0]}/0"
        )
    if layer not in run.layers:
        raise unknown("layer", layer, run.layers)
    rows, number = run.rows(layer), int(digits)
    matches = rows.index[rows["unit"] == number]
    if not len(matches):
        first, last = rows["unit"].min(), rows["unit"].max()
        raise DissectError(f"layer {layer} has no unit {digits}; its units are {first} to {last}")
    row, truth = rows.loc[matches[0]], run.ground_truth(layer)
    data, others = run.report_data.layers.get(layer, {}), run.report_data.facts.get("others", {})
    histogram = {
        name: data[name][number]
        for name in ("counts", "low", "high")
        if number < len(data.get(name, ()))
    }
    scored = [(row[text], float(row.get(score, math.nan))) for text, score in run.columns]
    return Unit(
        layer=layer,
        number=number,
        descriptions=[(text, score) for text, score in scored if text],
        margin=float(row["margin"]),
        flags=read(row[COLUMN]),
        null=float(row.get(NULL, math.nan)),
        images=_top_images(run, layer, number),
        truth="" if truth is None else str(truth["truth"].loc[matches[0]]),
        others={
            name: labels.get(layer, {}).get(str(number), "") for name, labels in others.items()
        },
        **histogram,
    )


def _top_images(run: Run, layer: str, unit: int) -> list[TopImage]:
    table = run.top_images
    rows = table[(table["layer"] == layer) & (table["unit"] == unit)].sort_values("rank")
    images = []
    for name, activation in zip(rows["image"], rows["activation"], strict=True):
        file, *_ = run.report_data.pictures.get(str(name), [None])
        path = run.folder / REPORT / THUMBNAILS / file if file else None
        exists = path is not None and path.is_file()
        images.append(TopImage(str(name), float(activation), path if exists else None))
    return images
