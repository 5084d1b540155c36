"""Texts without absolute paths, which name folders of the maker's machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from clipdissect.report.loading import Run

_SLASH = r"[/\\]+"
_BEFORE = r"(?<![\w./\\])(?!(?<=:)//)"  # not inside `a/b`, nor at the slashes of `https://`
_NAME = r"[^\s/\\'\",;]"
_USER = rf"(?:home|Users){_SLASH}[^/\\'\",;\n]+{_SLASH}"  # whose name may have spaces
# Of Unix, Windows (`C:\x\y`), a share (`\\server\x`), `file://`, or below a folder that was cut.
_ABSOLUTE = re.compile(
    rf"{_BEFORE}(?:(?:file:{_SLASH})?[A-Za-z]:|file:|~(?:[A-Za-z][\w.-]*)?|…)?{_SLASH}"
    rf"(?:{_USER}|{_NAME}+{_SLASH})(?:{_NAME}+{_SLASH})*({_NAME}*)"
)
_BEGINS = re.compile(r"file:/|~|[A-Za-z]:[/\\]|[/\\]")
_TOP = re.compile(r"(?:~|[A-Za-z]:)?")  # no folder by itself


def relative(text: str, roots: Sequence[str] = ()) -> str:
    """A text in which absolute paths are cut to their last part.

    Where a path ends can't be told from a text if its names have spaces, so known folders are cut
    first, literally.

    Args:
        text: any.
        roots: known folders, see `roots_of`.
    """
    for root in sorted(roots, key=len, reverse=True):
        parts = re.split(_SLASH, root.rstrip("/\\"))
        if not all(map(_TOP.fullmatch, parts)):
            known = rf"{_BEFORE}(?:file:[/\\]*)?{_SLASH.join(map(re.escape, parts))}"
            text = re.sub(rf"{known}{_SLASH}", "…/", text)
            text = re.sub(rf"{known}(?![\w.-])", "…", text)
    return _ABSOLUTE.sub(r"…/\1", text)


def roots_of(run: Run) -> list[str]:
    """Folders that may stand in a run's texts: the user's own, the working folder, those around the
    run, and around every path that is a value in `run.json`."""
    facts = {name: value for name, value in run.run.items() if name != "notes"}
    paths = [text.removeprefix("file:") for text in _texts(facts) if _BEGINS.match(text)]
    around = [re.sub(rf"{_SLASH}[^/\\]*$", "", path.rstrip("/\\")) for path in paths]
    own = [Path.cwd(), run.folder.absolute().parent]
    with suppress(RuntimeError):  # a user without a home
        own.append(Path.home())
    return list(dict.fromkeys([*map(str, own), *around]))


def _texts(value: Any) -> Iterator[str]:
    """All texts among nested values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
