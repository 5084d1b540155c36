"""Figures of the studies: panels of units with images, and plots; PNG and PDF, readable in grey."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdissect.probe import Probe
from clipdissect.probe.thumbnails import Thumbnails
from clipdissect.utils.files import atomic

SIDE = 160  # pixels of an image in a panel
DPI = 150
_INCH = 0.72  # of an image
_LINE = 0.155  # inches of a line of text
_WIDTH = 52  # characters a line of five images


@dataclass(frozen=True)
class Panel:
    """One unit: lines of text over its images.

    Args:
        lines: text, and whether it is bold.
        images: names of the probe's images, best first.
    """

    lines: tuple[tuple[str, bool], ...]
    images: tuple[str, ...]


def plot(width: float = 6.4, height: float = 4.0, columns: int = 1) -> tuple[Any, Any]:
    """An empty figure and its axes, side by side.

    Args:
        width, height: inches.
        columns: axes.
    """
    from matplotlib.figure import Figure

    drawn = Figure((width, height), layout="constrained")
    axes = drawn.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return drawn, axes


def panels(units: Sequence[Panel], probe: Probe, columns: int = 2, title: str = "") -> Any:
    """A figure of panels, row by row.

    Args:
        units: what to show; of the same number of images.
        probe: has the images.
        columns: panels a row.
        title: over all.
    """
    from matplotlib.figure import Figure

    across = max([len(unit.images) for unit in units] + [1])
    texts = [[part for line in unit.lines for part in _wrapped(*line, across)] for unit in units]
    lines = [max(map(len, texts[i : i + columns])) for i in range(0, len(units), columns)]
    heights = [_INCH + count * _LINE + 0.15 for count in lines]
    drawn = Figure((columns * (across * _INCH + 0.2), sum(heights) + 0.35))
    width, height = drawn.get_size_inches()
    drawn.text(0.5, 1 - 0.12 / height, title, ha="center", va="top", fontsize=9)
    pictures = Thumbnails(probe, SIDE)
    for place, (unit, text) in enumerate(zip(units, texts, strict=True)):
        row, column = divmod(place, columns)
        left = (0.1 + column * (across * _INCH + 0.2)) / width
        top = height - 0.35 - sum(heights[:row])
        for number, (part, bold) in enumerate(text):
            drawn.text(left, (top - number * _LINE) / height, part, va="top", fontsize=7.5,
                       fontweight="bold" if bold else "normal")  # fmt: skip
        bottom = top - lines[row] * _LINE - _INCH
        axis = drawn.add_axes((left, bottom / height, across * _INCH / width, _INCH / height))
        axis.imshow(pictures.strip(unit.images), aspect="auto", interpolation="antialiased")
        axis.set_axis_off()
    return drawn


def save(drawn: Any, folder: Path, name: str, dpi: int = DPI) -> None:
    """Write `<name>.png` and `<name>.pdf`, the same bytes for the same figure.

    Args:
        drawn: the figure.
        folder: where to.
        name: without an ending.
        dpi: of the PNG.
    """
    for kind in ("png", "pdf"):
        with atomic(folder / f"{name}.{kind}") as temporary:
            drawn.savefig(temporary, format=kind, dpi=dpi,
                          metadata={"CreationDate": None} if kind == "pdf" else None)  # fmt: skip


def legend_below(drawn: Any, axis: Any) -> None:
    """One legend for the whole figure, below the axes.

    Args:
        drawn: the figure.
        axis: has all that is to be named.
    """
    handles, labels = axis.get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False,
                 fontsize="small")  # fmt: skip


def heights(found: Sequence[dict[str, Any]]) -> list[float]:
    """Return the values as matplotlib takes them: NaN, which isn't drawn, where undefined."""
    return [math.nan if one["value"] is None else one["value"] for one in found]


def bar_errors(found: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Distances from values to the ends of their intervals, as matplotlib takes them; 0 of none."""
    ends: list[list[float]] = [[], []]
    for one in found:
        value, low, high = one["value"] or 0.0, one.get("low"), one.get("high")
        ends[0].append(value - low if low is not None else 0.0)
        ends[1].append(high - value if high is not None else 0.0)
    return [[max(end, 0.0) for end in side] for side in ends]


def _wrapped(text: str, bold: bool, images: int) -> list[tuple[str, bool]]:
    plain = text.replace("$", r"\$")  # matplotlib would read mathematics
    width = max(12, _WIDTH * images // 5 - (4 if bold else 0))
    return [(part, bold) for part in textwrap.wrap(plain, width, max_lines=2, placeholder=" ...")]
