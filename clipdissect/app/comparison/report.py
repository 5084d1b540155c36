"""A comparison's tables in the paper's layout, its figure and its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect.app.print_evaluation import number
from clipdissect.utils.figures import save_figure

MARKERS = "osD^vPX*"


def markdown(table: pd.DataFrame, chosen: str) -> str:
    """Table-3-shaped tables (functions by probes), and Table-1-shaped ones (probes by concepts).

    Args:
        table: of `comparing.table`.
        chosen: the similarity function of the Table-1-shaped ones.
    """
    parts = [HEAD]
    for setting in _some(table, "setting"):
        rows = table[table["setting"] == setting]
        units = int(rows["units"].iloc[0])
        parts.append(f"## Hyperparameters: {setting} ({units} units)\n")
        if chosen in set(rows["similarity"]):
            own = rows[rows["similarity"] == chosen]
            for metric in _some(own, "metric"):
                parts.append(f"### Probes and concept sets, {metric}, {chosen}\n")
                parts.append(_grid(own[own["metric"] == metric], "probe", "concepts"))
        for metric in _some(rows, "metric"):
            for concepts in _some(rows[rows["metric"] == metric], "concepts"):
                some = rows[(rows["metric"] == metric) & (rows["concepts"] == concepts)]
                parts.append(f"### Similarity functions, {metric}, concepts {concepts}\n")
                parts.append(_grid(some, "similarity", "probe", marked=True))
    return "\n".join(parts)


HEAD = """# Comparison of probes, concept sets and similarity functions

Labels of the layer of classes against the class names. In brackets: 95 % interval over units
(another level where the run says so), Wilson's of accuracies, else the bootstrap's. In tables of
functions an asterisk marks the best one of the column and those whose paired interval of the
difference to it holds 0. The best one is picked on the same units, which flatters its lead a
little. `top1` is of the exact class name, `top1_any_synonym` of any of its names.
"""


def _grid(rows: pd.DataFrame, down: str, across: str, marked: bool = False) -> str:
    columns = _some(rows, across)
    lines = [[down, *columns], ["---"] * (1 + len(columns))]
    for name in _some(rows, down):
        line = [name]
        for column in columns:
            cell = rows[(rows[down] == name) & (rows[across] == column)]
            line.append(_cell(cell.iloc[0], marked) if len(cell) else "")
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(row: Any, marked: bool) -> str:
    star = " *" if marked and row["minus_best_high"] >= 0 else ""
    said = f", {row['parameters']}" if row["setting"] == "best" and row["parameters"] else ""
    return f"{number(row['value'])}{star} [{number(row['low'])}, {number(row['high'])}]{said}"


def metrics(table: pd.DataFrame) -> dict[str, Any]:
    """JSON-able: the table's rows, a missing number as None."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return {"comparison": rows}


def tracked(table: pd.DataFrame) -> dict[str, Any]:
    """Return a nested mapping for trackers: concepts, setting, probe, similarity, metric."""
    found: dict[str, Any] = {}
    names = ["concepts", "setting", "probe", "similarity", "metric"]
    for row in metrics(table)["comparison"]:
        inner = found
        for name in names[:-1]:
            inner = inner.setdefault(row[name], {})
        inner[row["metric"]] = row["value"]
    return found


def figure(table: pd.DataFrame, folder: Path) -> None:
    """Dots with intervals: a row a concept set, a column a metric, functions by marker.

    Args:
        table: of `comparing.table`; its first setting is drawn.
        folder: gets comparison.png and comparison.pdf.
    """
    from matplotlib.figure import Figure

    rows = table[table["setting"] == table["setting"].iloc[0]]
    metrics, sets = _some(rows, "metric"), _some(rows, "concepts")
    drawn = Figure((5.2 * len(metrics), 2.7 * len(sets) + 0.5), layout="constrained")
    grid = drawn.subplots(len(sets), len(metrics), squeeze=False)
    for axes, concepts in zip(grid, sets, strict=True):
        for axis, metric in zip(axes, metrics, strict=True):
            some = rows[(rows["concepts"] == concepts) & (rows["metric"] == metric)]
            _panel(axis, f"{metric}, {concepts}", some)
    drawn.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center",
                 ncols=6, fontsize="small", frameon=False)  # fmt: skip
    save_figure(drawn, folder, "comparison", dpi=110)


def _panel(axis: Any, title: str, rows: pd.DataFrame) -> None:
    functions, probes = _some(rows, "similarity"), _some(rows, "probe")
    for i, name in enumerate(functions):
        own = rows[rows["similarity"] == name]
        at = [probes.index(p) + 0.7 * ((i + 0.5) / len(functions) - 0.5) for p in own["probe"]]
        errors = [own["value"] - own["low"], own["high"] - own["value"]]
        axis.errorbar(at, own["value"], yerr=errors, linestyle="none", markersize=5,
                      marker=MARKERS[i % len(MARKERS)], color=str(0.1 * (i % 7)),
                      markerfacecolor="white" if i % 2 else None, label=name)  # fmt: skip
    axis.set_xticks(range(len(probes)), [p.replace("_", "\n") for p in probes], fontsize="small")
    axis.set_title(title, fontsize="medium")
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", color="0.9")


def _some(rows: pd.DataFrame, column: str) -> Sequence[Any]:
    """A column's values, in the order first met."""
    return list(dict.fromkeys(rows[column]))
