"""The printed result of an evaluation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from clipdissect.app.print_run import console
from clipdissect.evaluation import Evaluation


def show(found: Evaluation, run: dict[str, Any], folder: Path, units: int) -> None:
    """Print the metrics beside the controls', some units, and where the files are.

    Args:
        found: of `evaluation.evaluate`.
        run: the facts of the run.
        folder: where the files are.
        units: rows of units to print; 0 prints none.
    """
    out = console()
    out.print(_metrics(found.metrics))
    if units:
        out.print(_units(found, units))
    for line in _closing(found.metrics, run, folder):
        out.print(line, markup=False, soft_wrap=True)


def number(value: float | None) -> str:
    """A metric for people; `-` where it is undefined."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def with_interval(value: float | None, interval: dict[str, Any] | None) -> str:
    """A metric and its interval, `0.2952 [0.2871, 0.3035]`."""
    if interval is None or interval["low"] is None:
        return number(value)
    return f"{number(value)} [{interval['low']:.4f}, {interval['high']:.4f}]"


def _metrics(metrics: dict[str, Any]) -> Any:
    from rich.table import Table

    final, share = metrics["final_layer"], metrics["bootstrap"]["confidence"]
    table = Table(
        title=f"{final['layer']}: {final['units']} units against the class names of "
        f"{final['truth']}, with {share:.0%} intervals",
        title_justify="left", title_style="bold", box=None, padding=(0, 2),
    )  # fmt: skip
    for column in ("metric", "value", *metrics["controls"]):
        table.add_column(column.replace("_", " "), no_wrap=True)
    for name in metrics["intervals"]:
        sides = [
            with_interval(side.get(name), side_intervals.get(name))
            for side, side_intervals in (
                (final, metrics["intervals"]),
                *((c, c["intervals"]) for c in metrics["controls"].values()),
            )
        ]
        table.add_row(name, *sides)
    return table


def _units(found: Evaluation, units: int) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, padding=(0, 2))
    shares = ("right", "top5", "right_any_synonym", "top5_any_synonym")
    columns = [c for c in found.units.table if c not in ("layer", "similarity", *shares)]
    for column in columns:
        table.add_column(str(column), max_width=40, no_wrap=True, overflow="ellipsis")
    for _, row in found.units.table.head(units).iterrows():
        cells = [row[c] for c in columns]
        table.add_row(*(f"{c:.4g}" if isinstance(c, float) else escape(str(c)) for c in cells))
    return table


def _closing(metrics: dict[str, Any], run: dict[str, Any], folder: Path) -> list[str]:
    final = metrics["final_layer"]
    lines = [f"{final['described']} of {final['units']} units are described; " + _known(final)]
    reasons = {k: v for k, v in final.items() if k.endswith("_reason") and "concepts" not in k}
    for reason in dict.fromkeys(reasons.values()):
        names = [k.removesuffix("_reason") for k, v in reasons.items() if v == reason]
        lines.append(f"  undefined: {', '.join(names)}: {reason.splitlines()[0]}")
    lines.append(_constants(metrics))
    lines += _places(metrics)
    for name in list(metrics["differences"])[len(metrics["controls"]) :]:
        for metric, found in metrics["differences"][name].items():
            lines.append(f"minus {name}: {metric} {with_interval(found['value'], found)}")
    lines += [f"note: {note}" for note in run["notes"]]
    spent = ", ".join(f"{stage} {value:.1f} s" for stage, value in run["seconds"].items())
    return [*lines, f"time: {spent}", f"files: {folder}"]


def _known(final: dict[str, Any]) -> str:
    """How many classes are among the concepts."""
    if final["concepts"] is None:
        return str(final["concepts_reason"])
    return (f"{final['classes_in_concepts']} class names are among the {final['concepts']} "
            f"concepts, {final['classes_in_concepts_any_synonym']} by any synonym")  # fmt: skip


def _constants(metrics: dict[str, Any]) -> str:
    if "controls_reason" in metrics:
        return f"no controls: {metrics['controls_reason']}"
    labels = metrics["controls"]["best_constant"]["labels"]
    constants = ", ".join(f"{label!r} for {name}" for name, label in labels.items())
    return f"best constant label, chosen knowing the truth: {constants or 'none'}"


def _places(metrics: dict[str, Any]) -> list[str]:
    found = dict(metrics.get("places365", {}))
    note = found.pop("note", None)
    lines = []
    for matching, values in found.items():
        shown = [
            f"{name} {with_interval(values[name], values[f'{name}_interval'])} "
            f"({values[f'{name}_right']} of {values['classes']})"
            for name in ("top1", "top5")
            if values[name] is not None
        ]
        lines.append(f"Places365, names as {matching}: {', '.join(shown) or 'undefined'}")
    return [*lines, *([f"  {note}"] if note else [])]
