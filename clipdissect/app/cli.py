"""The console script `clipdissect`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TextIO, cast

from clipdissect.app.help import COMMANDS, RUNNERS, runner_help, usage


def main() -> None:
    """Run the experiment or command of the first argument with the other arguments."""
    with forgiving():
        _run()


def _run() -> None:
    name, *arguments = sys.argv[1:] or ["help"]
    if name in ("-h", "--help", "help"):
        print(usage())
    elif name == "--version":
        from clipdissect import __version__

        print(__version__)
    elif name in RUNNERS and {"--help", "-h"} & set(arguments):
        print(runner_help(name))  # before the import of anything heavy
    elif name in (*RUNNERS, *COMMANDS):
        sys.argv = [f"clipdissect {name}", *arguments]
        package = "experiments" if name in RUNNERS else "commands"
        import_module(f"clipdissect.app.{package}.{name}").main()
    else:
        from clipdissect.errors import unknown

        message = unknown("runner or command", name, (*RUNNERS, *COMMANDS))
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)


class Forgiving:
    """A stream that drops its text once the pipe is closed, so that the job continues."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _drop(self) -> None:
        # The interpreter flushes the stream's buffer once more when it ends.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


@contextmanager
def forgiving() -> Iterator[None]:
    """Make `sys.stdout` and `sys.stderr` `Forgiving` within the block."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, Forgiving(stream)) for stream in streams)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = streams


if __name__ == "__main__":
    main()
