"""Figures of a result."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clipdissect.errors import DissectError
from clipdissect.results.describe import NULL

BINS = 40
# Of the palette of Okabe and Ito, which colour-blind readers can tell apart; also by the fill.
COLOUR, NULL_COLOUR = "#0072B2", "#D55E00"


class CellFigure(Figure):
    """A figure that notebooks show, although pyplot, which has global state, doesn't know it."""

    def _repr_png_(self) -> bytes:
        data = BytesIO()
        self.savefig(data, format="png", dpi=110)
        return data.getvalue()


def plot_scores(descriptions: pd.DataFrame) -> Figure:
    """Return histograms of the best scores, a panel per layer, and of those by chance.

    Raises:
        DissectError: no unit has a score.
    """
    scored = descriptions[np.isfinite(descriptions["similarity"].astype(float))]
    if scored.empty:
        raise DissectError("the descriptions have no scores: there is nothing to plot")
    layers = list(dict.fromkeys(scored["layer"]))
    columns = {"similarity": scored["similarity"].astype(float)}
    if NULL in scored:
        columns[NULL] = scored[NULL].astype(float)
    values = np.concatenate([column.dropna() for column in columns.values()])
    bins = np.histogram_bin_edges(values, BINS)
    figure = CellFigure((7, 1.1 + 1.3 * len(layers)), layout="constrained")
    panels = figure.subplots(len(layers), 1, sharex=True, squeeze=False)[:, 0]
    for panel, layer in zip(panels, layers, strict=True):
        own = scored["layer"] == layer
        panel.hist(columns["similarity"][own], bins, color=COLOUR, alpha=0.6, label="best score")
        if NULL in columns:
            options = {"histtype": "step", "color": NULL_COLOUR, "linewidth": 1.8}
            label = "best score with shuffled images"
            panel.hist(columns[NULL][own].dropna(), bins, label=label, **options)
        panel.set_title(f"{layer}: {own.sum():,} units", fontsize=10, loc="left")
        panel.set_ylabel("units")
        panel.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    panels[-1].set_xlabel("score of the description")
    return figure
