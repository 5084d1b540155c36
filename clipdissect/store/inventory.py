"""What the store holds: listing, verifying and pruning."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdissect.store import locks, shards
from clipdissect.store.entries import ABOUT, MANIFEST, Store

DAY_S = 86_400.0


@dataclass(frozen=True)
class Item:
    """An entry as the inventory shows it.

    Args:
        key: its key.
        about: what it is.
        whole: whether it is complete.
        files: its shards.
        size: bytes on disk.
        made: when it was written last, in seconds since the epoch.
        used: when it was read last.
    """

    key: str
    about: dict[str, Any]
    whole: bool
    files: tuple[Path, ...]
    size: int
    made: float
    used: float


def inventory(store: Store) -> list[Item]:
    """All entries, the ones used last first."""
    found = [_item(folder) for folder in _folders(store)]
    return sorted((item for item in found if item), key=lambda item: -item.used)


def verify(store: Store) -> dict[str, list[str]]:
    """Read every file; key to what is wrong with it, for entries with damaged files."""
    problems: dict[str, list[str]] = {}
    for item in inventory(store):
        wrong = [said for said in map(_damage, item.files) if said]
        if item.whole and store.series(item.key).complete() is None and not wrong:
            wrong = ["its manifest or a file is missing or damaged, or an image failed for a reason"
                     " that may pass"]  # fmt: skip
        if wrong:
            problems[item.key] = wrong
    return problems


def prune(
    store: Store, *, older_days: float | None = None, to_bytes: int | None = None,
    incomplete: bool = False, dry_run: bool = False,
) -> list[Item]:  # fmt: skip
    """Delete entries, except those that a process is writing; returns what went.

    Args:
        store: the store.
        older_days: entries not used for as many days.
        to_bytes: entries used longest ago, until the rest takes no more than this.
        incomplete: entries that were never finished.
        dry_run: only say which.
    """
    items = inventory(store)
    doomed = {
        item.key
        for item in items
        if (incomplete and not item.whole)
        or (older_days is not None and time.time() - item.used > older_days * DAY_S)
    }
    if to_bytes is not None:
        left = 0
        for item in (i for i in items if i.key not in doomed):
            left += item.size
            if left > to_bytes:
                doomed.add(item.key)
    return [i for i in items if i.key in doomed and (dry_run or _remove(store, i.key))]


def _remove(store: Store, key: str) -> bool:
    with locks.if_free(store.root, key) as free:
        if free:
            shutil.rmtree(store.series(key).folder, ignore_errors=True)
    return free


def _folders(store: Store) -> Iterator[Path]:
    for path in sorted(store.root.glob("??/*")):
        if path.is_dir() and path.name.startswith(path.parent.name):
            yield path


def _item(folder: Path) -> Item | None:
    try:
        files = tuple(sorted(folder.glob("*.safetensors")))
        size = sum(f.stat().st_size for f in folder.iterdir())
        manifest = folder / MANIFEST
        status = (manifest if manifest.is_file() else folder).stat()
        whole = manifest.is_file()
        used = status.st_atime if whole else status.st_mtime
        return Item(
            folder.name, _about(folder), whole, files, size, status.st_mtime,
            max(used, status.st_mtime),
        )  # fmt: skip
    except FileNotFoundError:  # pruned by another process at this moment
        return None


def _about(folder: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _damage(path: Path) -> str | None:
    try:
        shards.read(path)
    except FileNotFoundError:
        return None
    except shards.Damaged as error:
        return str(error)
    return None
