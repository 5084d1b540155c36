"""The runtime's figure: seconds by stage, and their growth with size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipdissect.app.runtime.report import stages_of
from clipdissect.app.runtime.timing import OURS, PLAIN
from clipdissect.utils.figures import save_figure

HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "oo", "++", "--", "**", "||")
GREYS = ("0.25", "0.95", "0.75", "0.9", "0.55", "0.85", "1.0")
LINES = {OURS: ("o-", "black", "black"), PLAIN: ("s--", "0.45", "white")}
SCORING = "scoring"
TITLES = {"images": SCORING, "units": SCORING, "concepts": SCORING, "pass": "pass over the images"}


def figure(metrics: Mapping[str, Any], pieces: pd.DataFrame, folder: Path) -> None:
    from matplotlib.figure import Figure

    axes = [axis for axis in TITLES if len(pieces) and axis in set(pieces["axis"])]
    bars = sum(len(stores) for stores in metrics["methods"].values())
    height = 1.6 + 0.42 * bars
    drawn = Figure((11, height + (3.0 if axes else 0)), layout="constrained")
    heights = [1 + 0.42 * bars, 3.0] if axes else None
    grid = drawn.add_gridspec(2 if axes else 1, max(len(axes), 1), height_ratios=heights)
    _draw_bars(drawn.add_subplot(grid[0, :]), metrics["methods"])
    for column, axis in enumerate(axes):
        panel = drawn.add_subplot(grid[1, column])
        _draw_growth(panel, axis, pieces[pieces["axis"] == axis])
        if column == 0:
            panel.set_ylabel("seconds")
            panel.legend(fontsize="small", frameon=False)
    save_figure(drawn, folder, "runtime", dpi=110)


def _draw_bars(axis: Any, methods: Mapping[str, Any]) -> None:
    runs = {f"{name}, {store}": run for name, by in methods.items() for store, run in by.items()}
    start = np.zeros(len(runs))
    style = {"height": 0.7, "edgecolor": "black", "linewidth": 0.6}
    for index, stage in enumerate(stages_of(list(runs.values()))):
        seconds = np.array([max(run["stages"].get(stage, 0.0), 0.0) for run in runs.values()])
        colours = {"color": GREYS[index % len(GREYS)], "hatch": HATCHES[index % len(HATCHES)]}
        axis.barh(range(len(runs)), seconds, left=start, label=stage, **style, **colours)
        start += seconds
    for y, run in enumerate(runs.values()):
        axis.text(start[y], y, f" {run['seconds']['median']:.3g} s", va="center", fontsize="small")
    axis.set_yticks(range(len(runs)), list(runs))
    axis.invert_yaxis()
    axis.set_xlim(0, 1.1 * max(start, default=1.0))
    axis.set_xlabel("seconds, median by stage")
    axis.legend(fontsize="small", ncols=7, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)


def _draw_growth(axis: Any, name: str, pieces: pd.DataFrame) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    size = "images" if name == "pass" else name
    for side, group in pieces.groupby("side", sort=False):
        line, colour, face = LINES[str(side)]
        seconds = group.groupby(size)["seconds"]
        median = seconds.median()
        errors = [median - seconds.min(), seconds.max() - median]
        style = {"fmt": line, "color": colour, "markerfacecolor": face, "label": side}
        axis.errorbar(median.index, median, yerr=errors, capsize=2, markersize=5, **style)
    axis.set_xscale("log")
    axis.set_yscale("log")
    sizes = sorted(set(pieces[size]))
    axis.set_xticks(sizes, [f"{n:.0f}" for n in sizes], fontsize="small")
    axis.set_xticks([], minor=True)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(size)
    axis.set_title(TITLES[name], fontsize="medium")
    axis.grid(color="0.9")
