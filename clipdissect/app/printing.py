"""Print the results of dissections and evaluations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect.app.console import (
    RIGHT,
    closing_lines,
    console,
    print_lines,
    text_table,
    undefined_reasons,
)
from clipdissect.evaluation import Evaluation
from clipdissect.results.coherence import NAMES
from clipdissect.results.flags import COLUMN, DEAD, RARE, SATURATED, has_flag
from clipdissect.results.tables import ResultTables


def show_evaluation(evaluation: Evaluation, run: dict[str, Any], folder: Path, units: int) -> None:
    """Print metrics, controls, this many units, and the path of the files."""
    out = console()
    out.print(_metrics_table(evaluation.metrics))
    if units:
        out.print(_units_table(evaluation, units))
    print_lines(
        out, [*_evaluation_lines(evaluation.metrics), *closing_lines(run), f"files: {folder}"]
    )


def number(value: float | None) -> str:
    """Return a metric as text; `-` if it is undefined."""
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def with_interval(value: float | None, interval: dict[str, Any] | None) -> str:
    """Return a metric and its interval, `0.2952 [0.2871, 0.3035]`."""
    if interval is None or interval["low"] is None:
        return number(value)
    return f"{number(value)} [{interval['low']:.4f}, {interval['high']:.4f}]"


def _metrics_table(metrics: dict[str, Any]) -> Any:
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


def _units_table(evaluation: Evaluation, units: int) -> Any:
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


def _evaluation_lines(metrics: dict[str, Any]) -> list[str]:
    final = metrics["final_layer"]
    known = str(final.get("concepts_reason"))
    if final["concepts"] is not None:
        known = (
            f"{final['classes_in_concepts']} class names are among the {final['concepts']} "
            f"concepts, {final['classes_in_concepts_any_synonym']} by any synonym"
        )
    lines = [f"{final['described']} of {final['units']} units are described; {known}"]
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


def show_run(result: ResultTables, metrics: dict[str, Any], folder: Path, units: int) -> None:
    """Print this many best-matched units per layer, the metrics, the files and the seconds."""
    out = console()
    if units:
        for layer, rows in result.descriptions.groupby("layer", sort=False):
            out.print(_layer_table(str(layer), rows, result.top_images, units, metrics))
    print_lines(out, _run_lines(result, metrics, folder))


def objective_line(objective: dict[str, Any]) -> str:
    return (
        f"objective {objective['name']}: {objective['tuning']:.4f} on the "
        f"{objective['tuning_units']} units of the tuning half, which a search sees; "
        f"{objective['report']:.4f} on the other {objective['report_units']}, which is the one to "
        "report"
    )


def _layer_table(
    layer: str, rows: pd.DataFrame, top_images: pd.DataFrame, units: int, metrics: dict[str, Any]
) -> Any:
    facts = metrics["layers"][layer]
    has_latents = "alive" in facts
    cut = {"no_wrap": True, "overflow": "ellipsis"}
    columns: dict[str, dict[str, Any]] = {
        "unit": {**RIGHT, "no_wrap": True, "min_width": 4},
        "similarity": {**RIGHT, "no_wrap": True, "min_width": 10},
        **({"fires": {**RIGHT, "no_wrap": True, "min_width": 5}} if has_latents else {}),
        "description": {**cut, "max_width": 32},
        "runners-up": {**cut, "max_width": 40},
        "top image": {**cut, "max_width": 40},
        "flags": {"no_wrap": True, "min_width": 5},
    }
    images = top_images[(top_images["layer"] == layer) & (top_images["rank"] == 1)]
    best_image = dict(zip(images["unit"], images["image"], strict=True))
    # The scores of rare latents are high by chance.
    ranked = rows[~has_flag(rows, DEAD) & ~has_flag(rows, RARE)].nlargest(units, "similarity")
    cells = [
        (
            row["unit"],
            f"{row['similarity']:.3f}",
            *([f"{row['fires']:.0f}"] if has_latents else []),
            row["description"],
            ", ".join(str(row[c]) for c in ("description_2", "description_3") if c in row),
            Path(best_image.get(row["unit"], "")).name,
            ", ".join([*row[COLUMN], *_several(row)]),
        )
        for _, row in ranked.iterrows()
    ]
    return text_table(columns, cells, _layer_title(layer, facts))


def _several(row: pd.Series[Any]) -> list[str]:
    count = row.get("meanings", 1)
    return [f"{count} meanings"] if count > 1 else []


def _layer_title(layer: str, facts: dict[str, Any]) -> str:
    if "alive" in facts:
        rare = f" ({facts[RARE]:,} of them rare)" if facts[RARE] else ""
        parts = [f"{facts['units']:,} latents", f"{facts[DEAD]:,} dead"]
        parts.append(f"{facts['alive']:,} alive{rare}")
    else:
        parts = [f"{facts['units']} units", f"{facts[DEAD]} dead"]
        parts += [f"{facts[SATURATED]} saturated"] if facts[SATURATED] else []
    parts.append(f"{facts['different_descriptions']} different descriptions")
    return f"{layer}: {', '.join(parts)}"


def _run_lines(result: ResultTables, metrics: dict[str, Any], folder: Path) -> list[str]:
    # No comparison without scores on shuffled images.
    lines = [
        f"{layer}: {100 * facts['above_null']:.1f} % of {_compared(facts)} score above the 95th "
        f"percentile with shuffled images, {facts['null_95']:.3f} (by chance: 5 %)"
        for layer, facts in metrics["layers"].items()
        if facts.get("null_95") is not None
    ]
    lines += _unit_means(metrics["layers"])
    if metrics.get("final_layer"):
        lines += _final_layer(metrics["final_layer"])
    if "objective" in metrics:
        lines.append(objective_line(metrics["objective"]))
    *notes, time = closing_lines(result.run)
    skipped, computed = len(result.run["probe"]["skipped"]), result.run["computed"]
    if skipped:
        notes.append(f"skipped: {skipped} images, listed in run.json")
    features = f"{', '.join(computed)} computed" if computed else "all from the store"
    return [*lines, *notes, time, f"features: {features}", f"files: {folder}"]


def _unit_means(layers: dict[str, Any]) -> list[str]:
    """Return a line per layer with the means of the numbers that need no label."""
    means = {
        layer: [f"{name} {facts[name]['value']:.3f}" for name in NAMES if _has_mean(facts, name)]
        for layer, facts in layers.items()
    }
    return [f"{layer}: {', '.join(texts)}" for layer, texts in means.items() if texts]


def _has_mean(facts: dict[str, Any], name: str) -> bool:
    return facts.get(name, {}).get("value") is not None


def _compared(facts: dict[str, Any]) -> str:
    return "latents neither dead nor rare" if facts.get(RARE) else "live units"


def _final_layer(final: dict[str, Any]) -> list[str]:
    scores = [f"{name} {value:.4f}" for name, value in final.items() if isinstance(value, float)]
    count = final["classes_in_concepts"]
    known = "of unknown concepts" if count is None else f"{count} are among the concepts"
    return [
        f"{final['layer']} against its {final['units']} class names "
        f"({known}): {', '.join(scores) or 'no metric'}",
        *(f"  undefined: {name}: {why}" for name, why in undefined_reasons(final).items()),
    ]
