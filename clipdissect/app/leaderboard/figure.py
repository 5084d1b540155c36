"""The figure of a leaderboard: a panel per score, a line per method, a colour per layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect.app.leaderboard.board import Board
from clipdissect.app.scoring.output import MAIN
from clipdissect.utils.figures import save_figure

INCHES_PER_METHOD = 0.34
SPREAD = 0.6  # of a line's height, over which its layers are spread


def draw(board: Board, folder: Path) -> None:
    """Save `leaderboard.png` and `.pdf`; scores without any interval have no panel."""
    from matplotlib.figure import Figure

    table = board.table[board.table["low"].notna()]
    scores = [name for name in MAIN if name in set(table["score"])]
    methods = board.methods(board.layers[0])
    if not scores or not methods:
        return
    size = (2.4 + 2.3 * len(scores), 1.4 + INCHES_PER_METHOD * len(methods))
    figure = Figure(size)
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for panel, score in zip(panels, scores, strict=True):
        _draw_panel(panel, board, table[table["score"] == score], methods)
        panel.set_title(score.replace("_", " "), fontsize=9)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    drawn = [panel.get_legend_handles_labels() for panel in panels]
    handles = {label: handle for pair in drawn for handle, label in zip(*pair, strict=True)}
    options = {"loc": "lower center", "ncols": max(1, len(handles)), "frameon": False}
    figure.legend(list(handles.values()), list(handles), **options)
    figure.tight_layout(rect=(0, 0.45 / size[1], 1, 1))
    save_figure(figure, folder, "leaderboard")


def _draw_panel(panel: Any, board: Board, rows: pd.DataFrame, methods: list[str]) -> None:
    panel.grid(axis="x", alpha=0.3)
    for number, layer in enumerate(board.layers):
        shown = rows[(rows["layer"] == layer) & rows["method"].isin(methods)]
        shift = SPREAD * (number / max(1, len(board.layers) - 1) - 0.5)
        y = [methods.index(name) + shift for name in shown["method"]]
        error = [shown["value"] - shown["low"], shown["high"] - shown["value"]]
        style: dict[str, Any] = {"fmt": "o", "ms": 3, "color": f"C{number}", "label": layer}
        if len(shown):
            panel.errorbar(shown["value"], y, xerr=error, elinewidth=1, **style)
            panel.plot(shown["controls"], y, "|", ms=6, color=f"C{number}", alpha=0.5)
