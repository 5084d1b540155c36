"""The console script `clipdissect`."""

from __future__ import annotations

import sys
from importlib import import_module

from clipdissect.app.help import COMMANDS, RUNNERS, usage
from clipdissect.app.output import forgiving


def main() -> None:
    """Run the runner or command that the first argument names with the other arguments."""
    with forgiving():
        _run()


def _run() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    if arguments[0] == "--version":
        from clipdissect import __version__

        print(__version__)
        return
    name, *rest = arguments
    known = (*RUNNERS, *COMMANDS)
    if name not in known:
        from clipdissect.errors import unknown

        print(f"error: {unknown('runner or command', name, known)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"clipdissect {name}", *rest]
    place = "experiments" if name in RUNNERS else "commands"
    import_module(f"clipdissect.app.{place}.{name}").main()


if __name__ == "__main__":
    main()
