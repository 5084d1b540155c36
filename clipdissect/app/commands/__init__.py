"""The commands of `clipdissect` that aren't experiments."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clipdissect.app.console import markdown_table


def command_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help shows a module's docstring unwrapped."""
    return argparse.ArgumentParser(
        prog=f"clipdissect {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def output_file(text: str) -> Path:
    """Return an option's path; raise an error of argparse if it is a folder, before any work."""
    path = Path(text).expanduser()
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder: name a file")
    return path


def exit_on_user_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Decorate a `main`: print a user or system error on one line and exit with 2."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except Exception as error:
            from clipdissect.app.user_errors import explain

            message = explain(error) or (str(error) if isinstance(error, OSError) else None)
            if message is None:
                raise
            print(f"error: {message}", file=sys.stderr)
            sys.exit(2)

    return wrapped


def write_comparison(path: Path, columns: Sequence[str], rows: Sequence[Any], title: str) -> None:
    """Write `<path>.csv` and, with a title, `<path>.md` with four digits per number."""
    import pandas as pd

    from clipdissect.results.run_files import write_table
    from clipdissect.utils.files import write_text

    write_table(path.with_suffix(".csv"), pd.DataFrame(rows, columns=list(columns)))
    text = markdown_table(columns, (list(map(_text, row)) for row in rows))
    write_text(path.with_suffix(".md"), f"# {title}\n\n{text}")


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
