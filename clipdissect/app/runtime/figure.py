"""The runtime's figure: where the seconds go, and how they grow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from clipdissect.app.runtime.microbenchmarks import OURS, PLAIN
from clipdissect.app.runtime.report import stages_of
from clipdissect.utils.figures import save_figure

HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "oo", "++", "--", "**", "||")
GREYS = ("0.25", "0.95", "0.75", "0.9", "0.55", "0.85", "1.0")
LINES = {OURS: ("o-", "black", "black"), PLAIN: ("s--", "0.45", "white")}
TITLES = {"images": "scoring", "units": "scoring", "concepts": "scoring",
          "pass": "pass over the images"}  # fmt: skip


def figure(metrics: Mapping[str, Any], pieces: pd.DataFrame, folder: Path) -> None:
    """Bars of seconds by stage, and seconds over sizes where pieces were measured.

    Args:
        metrics: of `runtime_report.metrics`.
        pieces: the pieces' table.
        folder: gets runtime.png and runtime.pdf.
    """
    from matplotlib.figure import Figure

    axes = [a for a in TITLES if len(pieces) and a in set(pieces["axis"])]
    bars = sum(len(stores) for stores in metrics["methods"].values())
    drawn = Figure((11, 1.6 + 0.42 * bars + (3.0 if axes else 0)), layout="constrained")
    grid = drawn.add_gridspec(2 if axes else 1, max(len(axes), 1),
                              height_ratios=[1 + 0.42 * bars, 3.0] if axes else None)  # fmt: skip
    _bars(drawn.add_subplot(grid[0, :]), metrics["methods"])
    for column, axis in enumerate(axes):
        panel = drawn.add_subplot(grid[1, column])
        _growth(panel, axis, pieces[pieces["axis"] == axis])
        if column == 0:
            panel.set_ylabel("seconds")
            panel.legend(fontsize="small", frameon=False)
    save_figure(drawn, folder, "runtime", dpi=110)


def _bars(axis: Any, methods: Mapping[str, Any]) -> None:
    runs = [(f"{name}, {store}", one) for name, by in methods.items() for store, one in by.items()]
    start = np.zeros(len(runs))
    for number, stage in enumerate(stages_of([one for _, one in runs])):
        values = np.array([max(one["stages"].get(stage, 0.0), 0.0) for _, one in runs])
        axis.barh(range(len(runs)), values, left=start, height=0.7, label=stage,
                  color=GREYS[number % len(GREYS)], hatch=HATCHES[number % len(HATCHES)],
                  edgecolor="black", linewidth=0.6)  # fmt: skip
        start += values
    for y, (_, one) in enumerate(runs):
        axis.text(start[y], y, f" {one['seconds']['median']:.3g} s", va="center", fontsize="small")
    axis.set_yticks(range(len(runs)), [label for label, _ in runs])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.1 * max(start, default=1.0))
    axis.set_xlabel("seconds, median by stage")
    axis.legend(fontsize="small", ncols=7, loc="lower right", bbox_to_anchor=(1, 1), frameon=False)


def _growth(axis: Any, name: str, rows: pd.DataFrame) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    size = "images" if name == "pass" else name
    for side, own in rows.groupby("side", sort=False):
        line, colour, face = LINES[str(side)]
        by = own.groupby(size)["seconds"]
        middle = by.median()
        errors = [middle - by.min(), by.max() - middle]
        axis.errorbar(middle.index, middle, yerr=errors, fmt=line, color=colour, capsize=2,
                      markerfacecolor=face, markersize=5, label=side)  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    sizes = sorted(set(rows[size]))
    axis.set_xticks(sizes, [f"{n:.0f}" for n in sizes], fontsize="small")
    axis.set_xticks([], minor=True)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(size)
    axis.set_title(TITLES[name], fontsize="medium")
    axis.grid(color="0.9")
