"""The page of a leaderboard: a table per layer that can be sorted, with intervals drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from clipdissect._version import __version__
from clipdissect.app.leaderboard.board import LEGEND, Board, interval_text, sign_of
from clipdissect.report.page import STYLE, environment, static
from clipdissect.report.scores import score_of
from clipdissect.utils.files import write_text

SIGNS = {1: "+", -1: "\N{MINUS SIGN}", 0: ""}


@dataclass(frozen=True)
class Cell:
    """A mean for display; `left`, `width`, `dot` and `control` are percentages of the cell."""

    value: float
    text: str
    few: str
    units: int
    sign: str
    reached: str
    dot: float
    left: float | None = None
    width: float | None = None
    control: float | None = None


@dataclass(frozen=True)
class Row:
    method: str
    requires: str
    seconds: float
    cells: Sequence[Cell | None]


@dataclass(frozen=True)
class LayerTable:
    """A layer's methods, best first by the first score."""

    name: str
    titles: Sequence[tuple[str, str]]  # of the scores, with definitions
    rows: Sequence[Row]

    @classmethod
    def of(cls, board: Board, layer: str) -> LayerTable:
        scores, methods = board.scores(layer), board.methods(layer)
        columns = [_cells(board, layer, score, methods) for score in scores]
        rows = []
        for number, name in enumerate(methods):
            rows.append(Row(name, *board.about[name], [column[number] for column in columns]))
        known = [score_of(score) for score in scores]
        return cls(layer, [(score.title, score.definition) for score in known], rows)


def _cells(board: Board, layer: str, score: str, methods: Sequence[str]) -> list[Cell | None]:
    rows = [board.cells.get((layer, method, score)) for method in methods]
    keys = ("value", "low", "high", "controls")
    numbers = [row[key] for row in rows if row for key in keys if not pd.isna(row[key])]
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    span = high - low or 1.0
    return [None if row is None else _cell(row, board.few(row), low, span) for row in rows]


def _cell(row: Mapping[str, Any], few: str, start: float, span: float) -> Cell:
    def place(value: Any) -> float | None:
        return None if pd.isna(value) else round(100 * (value - start) / span, 1)

    left, right = place(row["low"]), place(row["high"])
    return Cell(
        value=row["value"],
        text=interval_text(row),
        few=few.removeprefix(", "),
        units=int(row["units"]),
        sign=SIGNS[sign_of(row)],
        reached=row["reached_by"],
        dot=place(row["value"]) or 0.0,
        left=left,
        width=None if left is None or right is None else round(right - left, 1),
        control=place(row["controls"]),
    )


def write_page(path: Path, board: Board, run: Mapping[str, Any]) -> None:
    """Write the page as a single file, which loads nothing."""
    heading = f"{run['target']['name']} on {run['probe']['name']}"
    images, scorers = run["scores"]["images"], run["scores"]["scorers"]
    facts = [
        ("target", run["target"]["name"]),
        ("probe", f"{run['probe']['name']}, {run['probe']['used']:,} images"),
        ("images that score", f"{images['test']:,}"),
        ("compared with", board.baseline),
        *((name, scorer["encoder"]) for name, scorer in scorers.items() if "encoder" in scorer),
    ]
    page = environment().get_template("leaderboard.html")
    html = page.render(
        title=f"Methods on {heading} - clipdissect",
        heading=heading,
        facts=facts,
        tables=[LayerTable.of(board, layer) for layer in board.layers],
        missing=board.missing,
        legend=LEGEND.format(baseline=board.baseline).replace("`", ""),
        notes=run["notes"],
        css=Markup(static(STYLE)),
        version=__version__,
    )
    write_text(path, html)
