"""The printed result of a dissection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect.results.flags import COLUMN, DEAD, SATURATED, has_flag
from clipdissect.results.result import Result

PIPE_WIDTH = 140


def show(result: Result, metrics: dict[str, Any], folder: Path, units: int) -> None:
    """Print each layer's best-matched units, the metrics, the files and the seconds.

    Args:
        result: of `dissect`.
        metrics: of `evaluation.metrics`.
        folder: where the files are.
        units: rows a layer; 0 prints no table.
    """
    out = console()
    if units:
        for layer, rows in result.descriptions.groupby("layer", sort=False):
            out.print(_table(str(layer), rows, result.top_images, units, metrics))
    for line in _closing(result, metrics, folder):
        out.print(line, markup=False, soft_wrap=True)


def console() -> Any:
    """Where results are printed: as wide as the terminal, or `PIPE_WIDTH` into a file or pipe."""
    from rich.console import Console

    wide = Console(highlight=False)
    return wide if wide.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def objective_line(found: dict[str, Any]) -> str:
    """An objective's two values, and which is for what."""
    return (
        f"objective {found['name']}: {found['tuning']:.4f} on the {found['tuning_units']} units of "
        f"the tuning half, which a search sees; {found['report']:.4f} on the other "
        f"{found['report_units']}, which is the one to report"
    )


def _table(
    layer: str, rows: pd.DataFrame, top_images: pd.DataFrame, units: int, metrics: dict[str, Any]
) -> Any:
    from rich.markup import escape
    from rich.table import Table

    facts = metrics["layers"][layer]
    special = [f"{facts[flag]} {flag}" for flag in (DEAD, SATURATED) if flag == DEAD or facts[flag]]
    title = (f"{layer}: {facts['units']} units, {', '.join(special)}, "
             f"{facts['different_descriptions']} different descriptions")  # fmt: skip
    table = Table(
        title=escape(title), title_justify="left", title_style="bold", box=None, padding=(0, 2)
    )
    table.add_column("unit", justify="right", no_wrap=True, min_width=4)
    table.add_column("similarity", justify="right", no_wrap=True, min_width=10)
    for column, width in (("description", 32), ("runners-up", 40), ("top image", 40)):
        table.add_column(column, max_width=width, no_wrap=True, overflow="ellipsis")
    table.add_column("flags", no_wrap=True)
    images = top_images[(top_images["layer"] == layer) & (top_images["rank"] == 1)]
    best_image = dict(zip(images["unit"], images["image"], strict=True))
    for _, row in rows[~has_flag(rows, DEAD)].nlargest(units, "similarity").iterrows():
        others = [str(row[c]) for c in ("description_2", "description_3") if c in row]
        table.add_row(
            str(row["unit"]),
            f"{row['similarity']:.3f}",
            escape(row["description"]),
            escape(", ".join(others)),
            escape(Path(best_image[row["unit"]]).name),
            ", ".join(row[COLUMN]),
        )
    return table


def _null(layer: str, facts: dict[str, Any]) -> list[str]:
    """How a layer's scores compare with those under shuffled images; nothing without a null."""
    if facts.get("null_95") is None:
        return []
    return [
        f"{layer}: {100 * facts['above_null']:.1f} % of live units score above the 95th percentile "
        f"with shuffled images, {facts['null_95']:.3f} (by chance: 5 %)"
    ]


def _closing(result: Result, metrics: dict[str, Any], folder: Path) -> list[str]:
    lines = [line for layer, facts in metrics["layers"].items() for line in _null(layer, facts)]
    final = metrics.get("final_layer")
    if final:
        scores = {k: v for k, v in final.items() if isinstance(v, float)}
        listed = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        reasons = [
            f"{k.removesuffix('_reason')}: {v}"
            for k, v in final.items()
            if k.endswith("_reason") and "concepts" not in k
        ]
        among = final["classes_in_concepts"]
        known = "of unknown concepts" if among is None else f"{among} are among the concepts"
        lines.append(
            f"{final['layer']} against its {final['units']} class names "
            f"({known}): {listed or 'no metric'}"
        )
        lines += [f"  undefined: {reason.splitlines()[0]}" for reason in reasons]
    if "objective" in metrics:
        lines.append(objective_line(metrics["objective"]))
    lines += [f"note: {note}" for note in result.run["notes"]]
    if result.run["probe"]["skipped"]:
        lines.append(f"skipped: {len(result.run['probe']['skipped'])} images, listed in run.json")
    seconds = result.run["seconds"]
    spent = ", ".join(f"{stage} {value:.1f} s" for stage, value in seconds.items())
    computed = result.run["computed"]
    lines.append(f"time: {spent}")
    lines.append(
        f"features: {', '.join(computed) + ' computed' if computed else 'all from the store'}"
    )
    lines.append(f"files: {folder}")
    return lines
