"""Print tables and closing lines in the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

RIGHT = {"justify": "right"}


def console(pipe_width: int = 140) -> Any:
    """Return a rich console as wide as the terminal; `pipe_width` for a file or pipe."""
    from rich.console import Console

    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=pipe_width)


def text_table(
    columns: Mapping[str, Mapping[str, Any]],
    rows: Iterable[Sequence[Any]],
    title: str = "",
    padding: int = 2,
    **options: Any,
) -> Any:
    """Return a rich table without lines or markup; `columns`: header to `add_column` options."""
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=escape(title) or None,
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, padding),
        **options,
    )
    for header, column in columns.items():
        table.add_column(header, **column)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return table


def print_lines(out: Any, lines: Iterable[str]) -> None:
    """Print lines without markup or wrapping."""
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)


def closing_lines(run: Mapping[str, Any]) -> list[str]:
    """Return a run's notes, and a line with the seconds per stage."""
    seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in run["seconds"].items())
    return [*(f"note: {note}" for note in run["notes"]), f"time: {seconds}"]


def undefined_reasons(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return why final-layer metrics are undefined, by metric."""
    return {
        key.removesuffix("_reason"): str(value).splitlines()[0]
        for key, value in metrics.items()
        if key.endswith("_reason") and "concepts" not in key
    }


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
