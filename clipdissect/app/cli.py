"""The console script `clipdissect`."""

from __future__ import annotations

import sys
from importlib import import_module

from clipdissect.app.help import COMMANDS, RUNNERS, runner_help, usage
from clipdissect.app.output import forgiving


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


if __name__ == "__main__":
    main()
