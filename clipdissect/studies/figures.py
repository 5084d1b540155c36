"""Figures of the studies: panels of units with images, and plots; readable in grey."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clipdissect.probe import Probe
from clipdissect.probe.thumbnails import Thumbnails

SIDE = 160  # pixels of an image in a panel
_IMAGE = 0.72  # inches per image
_LINE = 0.155  # inches per line of text
COLUMNS = 2  # of panels in a figure
_MARGIN = 0.2  # inches between panels
_TITLE = 0.35  # inches
_CHARACTERS = 52  # per line of a panel of five images


@dataclass(frozen=True)
class Panel:
    """A unit's lines of text (and whether they are bold), and its images, best first."""

    lines: tuple[tuple[str, bool], ...]
    images: tuple[str, ...]


def plot(width: float = 6.4, height: float = 4.0, columns: int = 1) -> tuple[Any, Any]:
    """Return an empty figure, sized in inches, and its axes side by side."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def panels(units: Sequence[Panel], probe: Probe, title: str) -> Any:
    from matplotlib.figure import Figure

    images = max([len(unit.images) for unit in units] + [1])
    texts = [[part for line in unit.lines for part in _wrapped(*line, images)] for unit in units]
    lines = [max(map(len, texts[i : i + COLUMNS])) for i in range(0, len(units), COLUMNS)]
    row_heights = [_IMAGE + count * _LINE + 0.15 for count in lines]
    step = images * _IMAGE + _MARGIN
    figure = Figure((COLUMNS * step, sum(row_heights) + _TITLE))
    width, height = figure.get_size_inches()
    figure.text(0.5, 1 - 0.12 / height, title, ha="center", va="top", fontsize=9)
    thumbnails = Thumbnails(probe, SIDE)
    for number, (unit, text) in enumerate(zip(units, texts, strict=True)):
        row, column = divmod(number, COLUMNS)
        left = (_MARGIN / 2 + column * step) / width
        top = height - _TITLE - sum(row_heights[:row])
        for line, (part, bold) in enumerate(text):
            weight = "bold" if bold else "normal"
            y = (top - line * _LINE) / height
            figure.text(left, y, part, va="top", fontsize=7.5, fontweight=weight)
        bottom = (top - lines[row] * _LINE - _IMAGE) / height
        axis = figure.add_axes((left, bottom, images * _IMAGE / width, _IMAGE / height))
        strip = thumbnails.strip(unit.images)
        axis.imshow(strip, aspect="auto", interpolation="antialiased")
        axis.set_axis_off()
    return figure


def legend_below(figure: Any, axis: Any) -> None:
    """Add a legend below the figure, with the labels of `axis`."""
    handles, labels = axis.get_legend_handles_labels()
    style: dict[str, Any] = {"ncols": len(labels), "frameon": False, "fontsize": "small"}
    figure.legend(handles, labels, loc="outside lower center", **style)


def heights(values: Sequence[dict[str, Any]]) -> list[float]:
    """Return each `value`; NaN, which matplotlib doesn't draw, if undefined."""
    return [math.nan if value["value"] is None else value["value"] for value in values]


def bar_errors(values: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Return distances to both ends of the intervals; 0 without interval."""
    errors: list[list[float]] = [[], []]
    for interval in values:
        value, low, high = interval["value"] or 0.0, interval.get("low"), interval.get("high")
        errors[0].append(max(value - low, 0.0) if low is not None else 0.0)
        errors[1].append(max(high - value, 0.0) if high is not None else 0.0)
    return errors


def _wrapped(text: str, bold: bool, images: int) -> list[tuple[str, bool]]:
    plain = text.replace("$", r"\$")  # matplotlib would read it as mathematics
    width = max(12, _CHARACTERS * images // 5 - (4 if bold else 0))
    return [(part, bold) for part in textwrap.wrap(plain, width, max_lines=2, placeholder=" ...")]
