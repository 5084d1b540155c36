"""Shorten absolute paths, which would reveal folders of the user's machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from clipdissect.report.run import Run

_SLASH = r"[/\\]+"
_BEFORE = r"(?<![\w./\\])(?!(?<=:)//)"  # not inside `a/b`, nor at the slashes of `https://`
_NAME = r"[^\s/\\'\",;]"
_USER = rf"(?:home|Users){_SLASH}[^/\\'\",;\n]+{_SLASH}"  # user names may have spaces
# Unix, Windows (`C:\x\y`), a share (`\\server\x`), `file://`, or below a shortened folder.
_ABSOLUTE = re.compile(
    rf"{_BEFORE}(?:(?:file:{_SLASH})?[A-Za-z]:|file:|~(?:[A-Za-z][\w.-]*)?|…)?{_SLASH}"
    rf"(?:{_USER}|{_NAME}+{_SLASH})(?:{_NAME}+{_SLASH})*({_NAME}*)"
)
_STARTS_AS_PATH = re.compile(r"file:/|~|[A-Za-z]:[/\\]|[/\\]")
_ROOT = re.compile(r"(?:~|[A-Za-z]:)?")


def shorten_paths(text: str, folders: Sequence[str] = ()) -> str:
    """Reduce absolute paths in a text to their last part.

    Paths with spaces end ambiguously, so known folders are replaced first, literally.
    """
    for folder in sorted(folders, key=len, reverse=True):
        parts = re.split(_SLASH, folder.rstrip("/\\"))
        if not all(map(_ROOT.fullmatch, parts)):
            literal = rf"{_BEFORE}(?:file:[/\\]*)?{_SLASH.join(map(re.escape, parts))}"
            text = re.sub(rf"{literal}{_SLASH}", "…/", text)
            text = re.sub(rf"{literal}(?![\w.-])", "…", text)
    return _ABSOLUTE.sub(r"…/\1", text)


def known_folders(run: Run) -> list[str]:
    """Return home, the working folder, the run's parent, and parents of paths in run.json."""
    metadata = {name: value for name, value in run.run.items() if name != "notes"}
    texts = [text for text in _texts(metadata) if _STARTS_AS_PATH.match(text)]
    parents = [
        re.sub(rf"{_SLASH}[^/\\]*$", "", text.removeprefix("file:").rstrip("/\\")) for text in texts
    ]
    folders = [Path.cwd(), run.folder.absolute().parent]
    with suppress(RuntimeError):  # the user has no home
        folders.append(Path.home())
    return list(dict.fromkeys([*map(str, folders), *parents]))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
