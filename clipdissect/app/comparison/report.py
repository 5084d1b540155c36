"""A comparison's tables in the paper's layout, its figure and its metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect.app.console import markdown_table
from clipdissect.app.printing import number
from clipdissect.utils.figures import save_figure

MARKERS = "osD^vPX*"
HEAD = """# Comparison of probes, concept sets and similarity functions

Labels of the layer of classes against the class names. In brackets: 95 % interval over units
(another level where the run says so), Wilson's of accuracies, else the bootstrap's. In tables of
functions an asterisk marks the best one of the column and those whose paired interval of the
difference to it holds 0. The best one is picked on the same units, which flatters its lead a
little. `top1` is of the exact class name, `top1_any_synonym` of any of its names.
"""


def markdown(table: pd.DataFrame, chosen: str) -> str:
    """Return tables of functions by probes and, for `chosen`, of probes by concept sets."""
    parts = [HEAD]
    for setting in _distinct(table, "setting"):
        rows = table[table["setting"] == setting]
        units = int(rows["units"].iloc[0])
        parts.append(f"## Hyperparameters: {setting} ({units} units)\n")
        of_chosen = rows[rows["similarity"] == chosen]
        for metric in _distinct(of_chosen, "metric"):
            cells = of_chosen[of_chosen["metric"] == metric]
            parts.append(f"### Probes and concept sets, {metric}, {chosen}\n")
            parts.append(_grid(cells, "probe", "concepts"))
        for metric in _distinct(rows, "metric"):
            of_metric = rows[rows["metric"] == metric]
            for concepts in _distinct(of_metric, "concepts"):
                cells = of_metric[of_metric["concepts"] == concepts]
                parts.append(f"### Similarity functions, {metric}, concepts {concepts}\n")
                parts.append(_grid(cells, "similarity", "probe", marked=True))
    return "\n".join(parts)


def _grid(cells: pd.DataFrame, down: str, across: str, marked: bool = False) -> str:
    columns = _distinct(cells, across)
    rows = []
    for name, row in cells.groupby(down, sort=False):
        texts = {cell[across]: _text(cell, marked) for _, cell in row[::-1].iterrows()}
        rows.append([str(name), *(texts.get(column, "") for column in columns)])
    return markdown_table([down, *columns], rows)


def _text(cell: Any, marked: bool) -> str:
    star = " *" if marked and cell["minus_best_high"] >= 0 else ""
    is_searched = cell["setting"] == "best" and cell["parameters"]
    suffix = f", {cell['parameters']}" if is_searched else ""
    return f"{number(cell['value'])}{star} [{number(cell['low'])}, {number(cell['high'])}]{suffix}"


def metrics(table: pd.DataFrame) -> dict[str, Any]:
    """Return the table's rows, JSON-able: a missing number is None."""
    return {"comparison": table.astype(object).where(table.notna(), None).to_dict("records")}


def tracked(table: pd.DataFrame) -> dict[str, Any]:
    """Return nested metrics for trackers: concepts, setting, probe, similarity, metric."""
    nested: dict[str, Any] = {}
    for row in metrics(table)["comparison"]:
        inner = nested
        for column in ("concepts", "setting", "probe", "similarity"):
            inner = inner.setdefault(row[column], {})
        inner[row["metric"]] = row["value"]
    return nested


def figure(table: pd.DataFrame, folder: Path) -> None:
    """Draw the first setting's values: a row per concept set, a column per metric."""
    from matplotlib.figure import Figure

    rows = table[table["setting"] == table["setting"].iloc[0]]
    metrics, concept_sets = _distinct(rows, "metric"), _distinct(rows, "concepts")
    size = (5.2 * len(metrics), 2.7 * len(concept_sets) + 0.5)
    drawn = Figure(size, layout="constrained")
    grid = drawn.subplots(len(concept_sets), len(metrics), squeeze=False)
    for axes, concepts in zip(grid, concept_sets, strict=True):
        for axis, metric in zip(axes, metrics, strict=True):
            cells = rows[(rows["concepts"] == concepts) & (rows["metric"] == metric)]
            _draw_panel(axis, f"{metric}, {concepts}", cells)
    legend = {"loc": "outside upper center", "ncols": 6, "fontsize": "small", "frameon": False}
    drawn.legend(*grid[0][0].get_legend_handles_labels(), **legend)
    save_figure(drawn, folder, "comparison", dpi=110)


def _draw_panel(axis: Any, title: str, cells: pd.DataFrame) -> None:
    functions, probes = _distinct(cells, "similarity"), _distinct(cells, "probe")
    for i, name in enumerate(functions):
        rows = cells[cells["similarity"] == name]
        shift = 0.7 * ((i + 0.5) / len(functions) - 0.5)
        at = [probes.index(probe) + shift for probe in rows["probe"]]
        errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        style: dict[str, Any] = {"marker": MARKERS[i % len(MARKERS)], "color": str(0.1 * (i % 7))}
        style |= {"markerfacecolor": "white" if i % 2 else None, "label": name}
        axis.errorbar(at, rows["value"], yerr=errors, linestyle="none", markersize=5, **style)
    axis.set_xticks(range(len(probes)), [p.replace("_", "\n") for p in probes], fontsize="small")
    axis.set_title(title, fontsize="medium")
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", color="0.9")


def _distinct(rows: pd.DataFrame, column: str) -> list[Any]:
    return list(dict.fromkeys(rows[column]))
