"""Files that something built depends on, noted while it is built."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

# Times of files are coarse on some disks, and this module isn't the first that is loaded.
SETTLED_S = 10
# Later changes may have come after Python loaded the code, or while a file was read.
settled_before_ns = time.time_ns() - SETTLED_S * 1_000_000_000

_noted: ContextVar[Dependencies | None] = ContextVar("noted", default=None)


@dataclass
class Dependencies:
    """Identities of files and folders by path, None for absent ones and those changed lately.

    `complete` is False if something else was read as well.
    """

    identities: dict[str, str | None] = field(default_factory=dict)
    complete: bool = True

    @property
    def are_unchanged(self) -> bool:
        """Whether everything is known, and still what it was when it was noted."""
        return self.complete and are_unchanged(self.identities)


@contextmanager
def noted() -> Iterator[Dependencies]:
    """Collect what the block says it `depends_on`."""
    found = Dependencies()
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)


def depends_on(*paths: Path) -> None:
    """Note files, folders with all their files, or that they are absent, before they are read."""
    found = _noted.get()
    for path in paths if found else ():
        name = os.path.abspath(path)
        if found and name not in found.identities:
            found.identities[name] = identity(name)


def depends_on_more() -> None:
    """Note that what is built depends on something that can't be noted."""
    found = _noted.get()
    if found:
        found.complete = False


def are_unchanged(identities: dict[str, str | None]) -> bool:
    return None not in identities.values() and all(
        identity(name) == known for name, known in identities.items()
    )


def identity(path: str | Path) -> str | None:
    """Return a digest of the names, sizes, times and inodes; None if they changed lately."""
    from clipdissect.utils import hashing  # imports torch, which `clipdissect fetch` doesn't need

    facts = _facts(str(path))
    if any(max(modified, changed) > settled_before_ns for _, _, modified, changed, _ in facts):
        return None
    return hashing.hash_values("files 1", facts)


def _facts(path: str) -> list[tuple[str, int, int, int, int]]:
    names = [path]
    if os.path.isdir(path):
        names = sorted(
            os.path.join(folder, name) for folder, _, files in os.walk(path) for name in files
        )
    facts = []
    for name in names:
        try:
            found = os.stat(name)
        except OSError:
            facts.append((name, -1, 0, 0, 0))  # absent, or a link to nothing
            continue
        times = found.st_mtime_ns, found.st_ctime_ns
        facts.append((name, found.st_size, *times, found.st_ino))
    return facts
