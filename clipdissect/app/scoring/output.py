"""Figure and printed summary of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipdissect.app.console import console, markdown_table, print_lines, text_table
from clipdissect.app.printing import number, with_interval
from clipdissect.scores.controls import CONTROLS
from clipdissect.scores.layers import LABELS
from clipdissect.utils.figures import save_figure

MAIN = ("simulation", "ablation", "cosy_auc", "auprc", "iou", "f1", "correlation")
LEGEND = (
    "Means over units with 95 % intervals. `+` and `-`: certainly above or below the first labels, "
    "over the units that both have a score of. `(control)`: a control's mean is not certainly "
    "below.\n"
)
LISTED = 5  # names in a line
COLOURS = {name: f"C{number}" for number, name in enumerate((LABELS, *CONTROLS))}


def show_scores(metrics: Mapping[str, Any], notes: Sequence[str], folder: Path) -> None:
    """Print the main scores next to controls, differences to other labels, notes, the folder."""
    out = console()
    for layer, scores in metrics["layers"].items():
        out.print(_layer_table(layer, _main(scores)))
    lines = [_verdict(layer, scores) for layer, scores in metrics["layers"].items()]
    for name, layers in metrics["differences"].items():
        lines += _difference_lines(name, layers)
    lines += _confidence_lines(metrics["confidence"])
    lines += [f"not scored: {name}: {why}" for name, why in metrics["not_scored"].items()]
    print_lines(out, [*lines, *(f"note: {note}" for note in notes), f"files: {folder}"])


def _main(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {name: scores[name] for name in MAIN if name in scores}


def _layer_table(layer: str, scores: Mapping[str, Any]) -> Any:
    controls = list(dict.fromkeys(c for score in scores.values() for c in score["controls"]))
    rows = [
        (
            name,
            score["units"],
            with_interval(score["value"], score),
            *(number(score["controls"][c]["value"]) for c in controls),
            ", ".join(score["reached_by"]),
        )
        for name, score in scores.items()
    ]
    headers = ("score", "units", "labels", *controls, "not above")
    return text_table({name: {"no_wrap": True} for name in headers}, rows, layer)


def _verdict(layer: str, scores: Mapping[str, Any]) -> str:
    known = {name: score for name, score in scores.items() if score["low"] is not None}
    reached = [name for name, score in known.items() if score["reached_by"]]
    if not known:
        return f"{layer}: too few units have a score"
    if not reached:
        return f"{layer}: the labels are above every control in all {len(known)} scores"
    listed = ", ".join(reached[:LISTED]) + (", ..." if len(reached) > LISTED else "")
    return (
        f"{layer}: controls reach {len(reached)} of {len(known)} scores, which show nothing here: "
        f"{listed}"
    )


def _difference_lines(name: str, layers: Mapping[str, Any]) -> list[str]:
    """Return lines on the layers together, where labels have scores of enough units."""
    layer = list(layers)[-1]
    lines = []
    for score, found in _main(layers[layer]).items():
        if found["low"] is not None:
            mark = "" if _sign(found) else " (not certain)"
            value = with_interval(found["value"], found)
            lines.append(f"minus {name}: {layer} {score} {value}, {found['units']} units{mark}")
    return lines


def _confidence_lines(metrics: Mapping[str, Any]) -> list[str]:
    lines = [f"no confidence of {layer}: {why}" for layer, why in metrics["missing"].items()]
    for layer, found in metrics.items():
        if layer != "missing":
            half = next(row for row in found["risk_at_coverage"] if row["coverage"] >= 0.5)
            lines.append(
                f"{layer}: {found['right']} of {found['with_truth']} descriptions are right "
                f"({found['right_is']}): of the {100 * half['coverage']:.0f} % with the highest "
                f"confidence {with_interval(1 - half['risk'], None)}"
            )
    return lines


def markdown(metrics: Mapping[str, Any]) -> str:
    """Return a table per layer: the main scores of all labels, then the first labels' controls."""
    parts = []
    for layer, first in metrics["layers"].items():
        names = list(_main(first))
        sets = {metrics["labels"]: first}
        sets |= {name: layers[layer] for name, layers in metrics["against"].items()}
        rows = [
            [name, *_cells(metrics, layer, name, scores, names)] for name, scores in sets.items()
        ]
        for control in CONTROLS:
            of_control = [first[name]["controls"].get(control) for name in names]
            rows.append([f"{control} labels", *(_mean(found) for found in of_control)])
        parts.append(f"{layer}\n\n{markdown_table(['', *names], rows)}")
    return "\n".join([*parts, LEGEND])


def _cells(
    metrics: Mapping[str, Any],
    layer: str,
    name: str,
    scores: Mapping[str, Any],
    columns: Sequence[str],
) -> list[str]:
    minus = metrics["differences"].get(name, {}).get(layer, {})
    cells = []
    for column in columns:
        found = scores.get(column)
        sign = {1: " -", -1: " +"}.get(_sign(minus.get(column)), "")
        reached = " (control)" if found and found["reached_by"] else ""
        cells.append(f"{_mean(found)}{sign}{reached}")
    return cells


def _sign(difference: Mapping[str, Any] | None) -> int:
    """Return 1 or -1 for an interval above or below 0, and 0 for others."""
    if not difference or difference["low"] is None:
        return 0
    return int(difference["low"] > 0) - int(difference["high"] < 0)


def _mean(found: Mapping[str, Any] | None) -> str:
    if not found or found["value"] is None:
        return ""
    if found["low"] is None:
        return f"{found['value']:.3f}, {found['units']} units"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def draw(metrics: Mapping[str, Any], folder: Path) -> None:
    """Draw the means of the labels and of the controls with intervals, a panel per score."""
    from matplotlib.figure import Figure

    layers = metrics["layers"]
    names = [n for n in MAIN if any(n in scores for scores in layers.values())]
    if not names:
        return
    size = (2.2 + 2.4 * len(names), 1.2 + 0.7 * len(layers))
    figure = Figure(size)
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)
    for panel, name in zip(axes[0], names, strict=True):
        _draw_panel(panel, [scores.get(name) for scores in layers.values()])
        panel.set_title(name.replace("_", " "), fontsize=9)
    axes[0][0].set_yticks(range(len(layers)), list(layers))
    axes[0][0].invert_yaxis()
    # Of all panels: a score of few units has no interval, and so no points.
    drawn = [axis.get_legend_handles_labels() for axis in axes[0]]
    handles = {label: handle for pair in drawn for handle, label in zip(*pair, strict=True)}
    options = {"loc": "lower center", "ncols": max(1, len(handles)), "frameon": False}
    figure.legend(list(handles.values()), list(handles), **options)
    figure.tight_layout(rect=(0, 0.45 / size[1], 1, 1))
    save_figure(figure, folder, "scores")


def _draw_panel(panel: Any, scores: Sequence[Mapping[str, Any] | None]) -> None:
    panel.grid(axis="x", alpha=0.3)
    for place, name in enumerate(COLOURS):
        points = []
        for row, score in enumerate(scores):
            found = score if name == LABELS else (score or {}).get("controls", {}).get(name)
            if found and found["low"] is not None:
                points.append((found["value"], found["low"], found["high"], row + place * 0.15))
        if points:
            value, low, high, y = np.array(points).T
            error = np.maximum([value - low, high - value], 0)
            panel.errorbar(value, y, xerr=error, fmt="o", ms=4, color=COLOURS[name], label=name)
