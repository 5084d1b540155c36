"""List, verify and prune the store and the user cache around it."""

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
# Folders of the user cache whose contents are computed again where missing, one item each.
COMPUTED = {
    "thumbnails": "thumbnails",
    "digests": "digests of files",
    "networks": "facts about networks",
    "shards": "lists of tar files",
    "synthetic_broden": "synthetic scenes",
    "generated": "generated images of texts",
}
FETCHED = "fetched"


@dataclass(frozen=True)
class Item:
    """A store entry or, with `path`, another item of the user cache; size in bytes."""

    key: str
    about: dict[str, Any]
    complete: bool
    files: tuple[Path, ...]
    size: int
    written: float
    used: float
    path: Path | None = None

    @property
    def is_fetched(self) -> bool:
        """Whether it was downloaded; such items are not pruned by age or size."""
        return self.about.get("what") == FETCHED


def inventory(store: Store, cache: Path | None = None) -> list[Item]:
    """List all entries and, with `cache`, the rest of the user cache, last used first."""
    try:
        items = [item for item in map(_entry, _entry_folders(store.root)) if item]
        if cache is not None:
            items += _cache_items(cache, store.root)
    except OSError as error:
        raise DissectError(f"can't read {error.filename}: {error.strerror}") from error
    return sorted(items, key=lambda item: -item.used)


def verify(store: Store) -> dict[str, list[str]]:
    """Read every file; return the problems of damaged entries, by key."""
    problems: dict[str, list[str]] = {}
    for item in inventory(store):
        damages = [damage for damage in map(_damage, item.files) if damage]
        if item.complete and not damages and store.series(item.key).complete() is None:
            damages = [
                "its manifest or a file is missing or damaged, or an image had a transient read "
                "error"
            ]
        if damages:
            problems[item.key] = damages
    return problems


def prune(
    store: Store,
    *,
    cache: Path | None = None,
    older_days: float | None = None,
    to_bytes: int | None = None,
    incomplete: bool = False,
    fetched: str | None = None,
    dry_run: bool = False,
) -> list[Item]:
    """Delete entries that no process is writing, and lock files without an entry.

    Args:
        cache: the user cache, to prune thumbnails and the like too.
        older_days: delete items not used for this many days.
        to_bytes: delete the least recently used items until the rest fits.
        fetched: delete the download of this name; a DissectError if there is none.
    """
    items = inventory(store, cache)
    chosen: list[Item] = []
    rest: list[Item] = []
    size = 0
    for item in (item for item in items if not item.is_fetched):
        is_old = older_days is not None and time.time() - item.used > older_days * DAY_S
        (chosen if is_old or (incomplete and not item.complete) else rest).append(item)
    for item in rest:  # last used first
        size += item.size
        if to_bytes is not None and size > to_bytes:
            chosen.append(item)
    chosen.sort(key=lambda item: -item.used)
    if fetched is not None:
        names = {item.key: item for item in items if item.is_fetched}
        if fetched not in names:
            raise unknown("fetched item", fetched, sorted(names))
        chosen.append(names[fetched])
    if dry_run:
        return chosen
    deleted = [item for item in chosen if _delete(store, item)]
    for key in locks.known(store.root):
        if not store.series(key).folder.exists():
            with locks.if_free(store.root, key) as free:
                if free:
                    locks.remove(store.root, key)
    return deleted


def _delete(store: Store, item: Item) -> bool:
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


def _entry_folders(root: Path) -> Iterator[Path]:
    if not root.exists():
        return
    for parent in sorted(root.iterdir()):
        if len(parent.name) == 2 and parent.is_dir():
            yield from filter(_is_entry, sorted(parent.iterdir()))


def _is_entry(path: Path) -> bool:
    is_key = path.name.startswith(path.parent.name) and _KEY.fullmatch(path.name)
    return bool(is_key) and path.is_dir() and all(map(_is_store_file, path.iterdir()))


def _is_store_file(file: Path) -> bool:
    is_half_written = file.name.startswith(".")
    is_named = file.name in (ABOUT, MANIFEST, USED)
    return is_half_written or is_named or file.suffix in (".safetensors", ".part")


def _entry(folder: Path) -> Item | None:
    try:
        files = tuple(sorted(folder.glob("*.safetensors")))
        size = sum(file.stat().st_size for file in folder.iterdir())
        manifest, used = folder / MANIFEST, folder / USED
        complete = manifest.is_file()
        written = (manifest if complete else folder).stat().st_mtime
        last = max(used.stat().st_mtime if used.is_file() else written, written)
        return Item(folder.name, _about(folder), complete, files, size, written, last)
    except FileNotFoundError:  # pruned by another process at this moment
        return None


def _about(folder: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _cache_items(cache: Path, root: Path) -> Iterator[Item]:
    """Yield the items of the user cache outside the store at `root`."""
    for top in sorted(cache.iterdir()) if cache.exists() else ():
        if top.resolve() == root.resolve() or top.name.startswith("."):
            continue
        if top.name not in COMPUTED:
            yield _cache_item(top, FETCHED)
            continue
        for path in sorted(top.iterdir()):
            if not path.name.startswith("."):
                yield _cache_item(path, COMPUTED[top.name])


def _cache_item(path: Path, description: str) -> Item:
    size, written = 0, path.stat().st_mtime
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                size += (Path(folder) / name).lstat().st_size
    size += path.stat().st_size if path.is_file() else 0
    return Item(path.name, {"what": description}, True, (), size, written, written, path)


def _damage(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        shards.verify(path)
    except shards.Damaged as error:
        return str(error)
    return None
