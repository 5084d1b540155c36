"""What the store and the user cache around it hold: listing, verifying and pruning."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdissect.errors import DissectError, unknown
from clipdissect.store import locks, shards
from clipdissect.store.entries import ABOUT, MANIFEST, USED, Store

DAY_S = 86_400.0
_KEY = re.compile(r"[0-9a-f]{4,}")
_NAMES = frozenset([ABOUT, MANIFEST, USED])
# Folders of the user cache with what is made again where it is missing, one thing each.
MADE = {
    "thumbnails": "thumbnails", "digests": "digests of files", "shards": "lists of tar files",
    "synthetic_broden": "synthetic scenes",
}  # fmt: skip
FETCHED = "fetched"


@dataclass(frozen=True)
class Item:
    """An entry, or something else in the user cache, as the inventory shows it.

    Args:
        key: its key, or its name in the cache.
        about: what it is.
        whole: whether it is complete.
        files: its shards, of an entry.
        size: bytes on disk.
        made: when it was written last, in seconds since the epoch.
        used: when it was used last.
        path: where it is, of what is no entry.
    """

    key: str
    about: dict[str, Any]
    whole: bool
    files: tuple[Path, ...]
    size: int
    made: float
    used: float
    path: Path | None = None

    @property
    def is_fetched(self) -> bool:
        """Whether it was downloaded; age and size alone never prune that."""
        return self.about.get("what") == FETCHED


def inventory(store: Store, cache: Path | None = None) -> list[Item]:
    """All entries, and all else in the user cache, the ones used last first.

    Args:
        store: the store.
        cache: the user cache; None looks at the store alone.

    Raises:
        DissectError: a folder that can't be read.
    """
    try:
        found = [_item(folder) for folder in _folders(store.root)]
        others = _others(cache, store.root) if cache is not None else ()
        items = [item for item in (*found, *others) if item]
    except OSError as error:
        raise DissectError(f"can't read {error.filename}: {error.strerror}") from error
    return sorted(items, key=lambda item: -item.used)


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
    store: Store, *, cache: Path | None = None, older_days: float | None = None,
    to_bytes: int | None = None, incomplete: bool = False, fetched: str | None = None,
    dry_run: bool = False,
) -> list[Item]:  # fmt: skip
    """Delete entries, except those that a process is writing; returns what went.

    Lock files of entries that are gone go as well.

    Args:
        store: the store.
        cache: the user cache, where thumbnails and the like are to be pruned too.
        older_days: what wasn't used for as many days.
        to_bytes: what was used longest ago, until the rest takes no more than this.
        incomplete: entries that were never finished.
        fetched: what was downloaded into the cache under this name.
        dry_run: only say which.

    Raises:
        DissectError: nothing of that name was fetched; a folder that can't be read.
    """
    every = inventory(store, cache)
    items = [item for item in every if not item.is_fetched]
    doomed = {
        (item.path, item.key)
        for item in items
        if (incomplete and not item.whole)
        or (older_days is not None and time.time() - item.used > older_days * DAY_S)
    }
    if to_bytes is not None:
        left = 0
        for item in (i for i in items if (i.path, i.key) not in doomed):
            left += item.size
            if left > to_bytes:
                doomed.add((item.path, item.key))
    chosen = [i for i in items if (i.path, i.key) in doomed] + _fetched(every, fetched)
    if dry_run:
        return chosen
    gone = [item for item in chosen if _remove(store, item)]
    _remove_locks(store)
    return gone


def _fetched(items: list[Item], name: str | None) -> list[Item]:
    if name is None:
        return []
    known = {item.key: item for item in items if item.is_fetched}
    if name not in known:
        raise unknown("fetched item", name, sorted(known))
    return [known[name]]


def _remove(store: Store, item: Item) -> bool:
    if item.path is not None:
        if item.path.is_dir():
            shutil.rmtree(item.path, ignore_errors=True)
        else:
            item.path.unlink(missing_ok=True)
        (item.path.parent / f".{item.path.name}.lock").unlink(missing_ok=True)
        return not item.path.exists()
    with locks.if_free(store.root, item.key) as free:
        if free:
            shutil.rmtree(store.series(item.key).folder, ignore_errors=True)
    return free


def _remove_locks(store: Store) -> None:
    for key in locks.known(store.root):
        if not store.series(key).folder.exists():
            with locks.if_free(store.root, key) as free:
                if free:
                    locks.remove(store.root, key)


def _folders(root: Path) -> Iterator[Path]:
    """The entries' folders; in a folder that isn't a store's, nothing else is taken for one."""
    if not root.exists():
        return
    for above in sorted(root.iterdir()):
        if len(above.name) == 2 and above.is_dir():
            yield from (path for path in sorted(above.iterdir()) if _is_entry(path))


def _is_entry(path: Path) -> bool:
    is_key = path.name.startswith(path.parent.name) and _KEY.fullmatch(path.name)
    return bool(is_key) and path.is_dir() and all(map(_is_ours, path.iterdir()))


def _is_ours(file: Path) -> bool:
    hidden = file.name.startswith(".")  # half-written
    return hidden or file.name in _NAMES or file.suffix in (".safetensors", ".part")


def _item(folder: Path) -> Item | None:
    try:
        files = tuple(sorted(folder.glob("*.safetensors")))
        size = sum(f.stat().st_size for f in folder.iterdir())
        manifest, used = folder / MANIFEST, folder / USED
        whole = manifest.is_file()
        made = (manifest if whole else folder).stat().st_mtime
        last = max(used.stat().st_mtime if used.is_file() else made, made)
        return Item(folder.name, _about(folder), whole, files, size, made, last)
    except FileNotFoundError:  # pruned by another process at this moment
        return None


def _others(cache: Path, root: Path) -> Iterator[Item]:
    """What lies in the user cache beside the store."""
    for top in sorted(cache.iterdir()) if cache.exists() else ():
        if top.resolve() == root.resolve() or top.name.startswith("."):
            continue
        if top.name not in MADE:
            yield _of_path(top, FETCHED)
            continue
        for path in sorted(top.iterdir()):
            if not path.name.startswith("."):
                yield _of_path(path, MADE[top.name])


def _of_path(path: Path, what: str) -> Item:
    size, made = 0, path.stat().st_mtime
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                size += (Path(folder) / name).lstat().st_size
    size += path.stat().st_size if path.is_file() else 0
    return Item(path.name, {"what": what}, True, (), size, made, made, path)


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
