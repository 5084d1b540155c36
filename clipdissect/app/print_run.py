"""Print the result of a dissection."""

from __future__ import annotations

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
from clipdissect.results.flags import COLUMN, DEAD, SATURATED, has_flag
from clipdissect.results.result import Result


def show(result: Result, metrics: dict[str, Any], folder: Path, units: int) -> None:
    """Print this many best-matched units per layer, the metrics, the files and the seconds."""
    out = console()
    if units:
        for layer, rows in result.descriptions.groupby("layer", sort=False):
            out.print(_table(str(layer), rows, result.top_images, units, metrics))
    print_lines(out, _closing(result, metrics, folder))


def objective_line(objective: dict[str, Any]) -> str:
    return (
        f"objective {objective['name']}: {objective['tuning']:.4f} on the "
        f"{objective['tuning_units']} units of the tuning half, which a search sees; "
        f"{objective['report']:.4f} on the other {objective['report_units']}, which is the one to "
        "report"
    )


def _table(
    layer: str, rows: pd.DataFrame, top_images: pd.DataFrame, units: int, metrics: dict[str, Any]
) -> Any:
    facts = metrics["layers"][layer]
    special = [f"{facts[flag]} {flag}" for flag in (DEAD, SATURATED) if flag == DEAD or facts[flag]]
    title = (
        f"{layer}: {facts['units']} units, {', '.join(special)}, "
        f"{facts['different_descriptions']} different descriptions"
    )
    cut = {"no_wrap": True, "overflow": "ellipsis"}
    columns: dict[str, dict[str, Any]] = {
        "unit": {**RIGHT, "no_wrap": True, "min_width": 4},
        "similarity": {**RIGHT, "no_wrap": True, "min_width": 10},
        "description": {**cut, "max_width": 32},
        "runners-up": {**cut, "max_width": 40},
        "top image": {**cut, "max_width": 40},
        "flags": {"no_wrap": True},
    }
    images = top_images[(top_images["layer"] == layer) & (top_images["rank"] == 1)]
    best_image = dict(zip(images["unit"], images["image"], strict=True))
    cells = [
        (
            row["unit"],
            f"{row['similarity']:.3f}",
            row["description"],
            ", ".join(str(row[c]) for c in ("description_2", "description_3") if c in row),
            Path(best_image[row["unit"]]).name,
            ", ".join(row[COLUMN]),
        )
        for _, row in rows[~has_flag(rows, DEAD)].nlargest(units, "similarity").iterrows()
    ]
    return text_table(columns, cells, title)


def _closing(result: Result, metrics: dict[str, Any], folder: Path) -> list[str]:
    # No comparison without scores on shuffled images.
    lines = [
        f"{layer}: {100 * facts['above_null']:.1f} % of live units score above the 95th percentile "
        f"with shuffled images, {facts['null_95']:.3f} (by chance: 5 %)"
        for layer, facts in metrics["layers"].items()
        if facts.get("null_95") is not None
    ]
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


def _final_layer(final: dict[str, Any]) -> list[str]:
    scores = [f"{name} {value:.4f}" for name, value in final.items() if isinstance(value, float)]
    count = final["classes_in_concepts"]
    known = "of unknown concepts" if count is None else f"{count} are among the concepts"
    return [
        f"{final['layer']} against its {final['units']} class names "
        f"({known}): {', '.join(scores) or 'no metric'}",
        *(f"  undefined: {name}: {why}" for name, why in undefined_reasons(final).items()),
    ]
