"""Print the result of an evaluation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from clipdissect.app.console import (
    closing_lines,
    console,
    print_lines,
    text_table,
    undefined_reasons,
)
from clipdissect.evaluation import Evaluation


def show(evaluation: Evaluation, run: dict[str, Any], folder: Path, units: int) -> None:
    """Print metrics, controls, this many units, and the path of the files."""
    out = console()
    out.print(_metrics(evaluation.metrics))
    if units:
        out.print(_units(evaluation, units))
    print_lines(out, [*_closing(evaluation.metrics), *closing_lines(run), f"files: {folder}"])


def number(value: float | None) -> str:
    """Return a metric as text; `-` if it is undefined."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def with_interval(value: float | None, interval: dict[str, Any] | None) -> str:
    """Return a metric and its interval, `0.2952 [0.2871, 0.3035]`."""
    if interval is None or interval["low"] is None:
        return number(value)
    return f"{number(value)} [{interval['low']:.4f}, {interval['high']:.4f}]"


def _metrics(metrics: dict[str, Any]) -> Any:
    final, confidence = metrics["final_layer"], metrics["bootstrap"]["confidence"]
    sides = [(final, metrics["intervals"])]
    sides += [(control, control["intervals"]) for control in metrics["controls"].values()]
    rows = [
        (name, *(with_interval(side.get(name), intervals.get(name)) for side, intervals in sides))
        for name in metrics["intervals"]
    ]
    columns = {
        name.replace("_", " "): {"no_wrap": True}
        for name in ("metric", "value", *metrics["controls"])
    }
    title = (
        f"{final['layer']}: {final['units']} units against the class names of {final['truth']}, "
        f"with {confidence:.0%} intervals"
    )
    return text_table(columns, rows, title)


def _units(evaluation: Evaluation, units: int) -> Any:
    table = evaluation.units.table
    left_out = ["layer", "similarity", "right", "top5", "right_any_synonym", "top5_any_synonym"]
    columns: dict[str, dict[str, Any]] = {
        str(column): {"max_width": 40, "no_wrap": True, "overflow": "ellipsis"}
        for column in table
        if column not in left_out
    }
    rows = [
        [f"{row[c]:.4g}" if isinstance(row[c], float) else row[c] for c in columns]
        for _, row in table.head(units).iterrows()
    ]
    return text_table(columns, rows)


def _closing(metrics: dict[str, Any]) -> list[str]:
    final = metrics["final_layer"]
    lines = [f"{final['described']} of {final['units']} units are described; " + _known(final)]
    reasons = undefined_reasons(final)
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, value in reasons.items() if value == reason]
        lines.append(f"  undefined: {', '.join(names)}: {reason}")
    lines += [_best_constant(metrics), *_places365(metrics.get("places365", {}))]
    # The first differences are to the controls.
    for name in list(metrics["differences"])[len(metrics["controls"]) :]:
        for metric, difference in metrics["differences"][name].items():
            value = with_interval(difference["value"], difference)
            lines.append(f"minus {name}: {metric} {value}")
    return lines


def _known(final: dict[str, Any]) -> str:
    if final["concepts"] is None:
        return str(final["concepts_reason"])
    return (
        f"{final['classes_in_concepts']} class names are among the {final['concepts']} concepts, "
        f"{final['classes_in_concepts_any_synonym']} by any synonym"
    )


def _best_constant(metrics: dict[str, Any]) -> str:
    if "controls_reason" in metrics:
        return f"no controls: {metrics['controls_reason']}"
    labels = metrics["controls"]["best_constant"]["labels"]
    constants = ", ".join(f"{label!r} for {name}" for name, label in labels.items())
    return f"best constant label, chosen knowing the truth: {constants or 'none'}"


def _places365(metrics: dict[str, Any]) -> list[str]:
    lines = []
    for matching, values in metrics.items():
        if matching == "note":
            continue
        scores = [
            f"{name} {with_interval(values[name], values[f'{name}_interval'])} "
            f"({values[f'{name}_right']} of {values['classes']})"
            for name in ("top1", "top5")
            if values[name] is not None
        ]
        lines.append(f"Places365, names as {matching}: {', '.join(scores) or 'undefined'}")
    return [*lines, *([f"  {metrics['note']}"] if metrics.get("note") else [])]
