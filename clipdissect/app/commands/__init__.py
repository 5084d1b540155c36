"""The commands of `clipdissect` that aren't experiments."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable


def command_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help shows a module's docstring as it is."""
    return argparse.ArgumentParser(
        prog=f"clipdissect {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def exit_on_user_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Decorate a `main`: print a user's or the system's error in one line, and exit with 2."""

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
