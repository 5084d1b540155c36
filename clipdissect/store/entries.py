"""Entries of the store, written shard by shard."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.store import locks, shards
from clipdissect.store.shards import Damaged, Shard
from clipdissect.utils import hashing
from clipdissect.utils.distributed import Team
from clipdissect.utils.files import write_text

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"  # written last: it marks the entry as complete
ABOUT = "about.json"  # written first, so that an unfinished entry can be identified
USED = "used"  # empty; its modification time is when the entry was used last
Rows = tuple[int, int]


@dataclass(frozen=True)
class Entry:
    """The arrays of an entry that is written at once, and JSON-able facts on their origin."""

    arrays: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)


class Store:
    """A folder of entries; those under transient keys live in a temporary folder."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._temporary: list[TemporaryDirectory[str]] = []
        self._transient_root: Path | None = None

    def __repr__(self) -> str:
        return f"<Store {self.root}>"

    def series(self, key: str) -> Series:
        """Return the entry of a key, complete or not, to be read or written in shards."""
        root = self.root
        if hashing.is_transient(key):
            root = self._transient_root or self._make_transient()
        return Series(root / key[:2] / key, key)

    def share_transient(self, team: Team) -> None:
        """Let a team's processes share transient entries, in a folder below `root`."""
        if team.size > 1:
            folder = ""
            if team.leads:
                self.root.mkdir(parents=True, exist_ok=True)
                folder = str(self._make_transient(self.root))
            self._transient_root = Path(team.broadcast(folder))

    def _make_transient(self, parent: Path | None = None) -> Path:
        folder = TemporaryDirectory(prefix="clipdissect-", dir=parent, ignore_cleanup_errors=True)
        self._temporary.append(folder)  # earlier ones stay: their entries may still be read
        self._transient_root = Path(folder.name)
        return self._transient_root

    def get(self, key: str) -> Entry | None:
        """Return the entry under a key; None if absent, incomplete or damaged (logged)."""
        series = self.series(key)
        parts = series.complete()
        if parts is None:
            return None
        series.used()
        return Entry(parts[0].arrays(), parts[0].about)

    def get_or_compute(self, key: str, compute: Callable[[], Entry]) -> Entry:
        """Return the entry under a key; if absent, compute and write it under its lock."""
        entry = self.get(key)
        if entry is None:
            with self.locked([key]):
                entry = self.get(key)  # another process may have been faster
                if entry is None:
                    entry = self.put(key, compute())
                    self.series(key).used()
        return entry

    def put(self, key: str, entry: Entry) -> Entry:
        """Write or replace an entry, whose lock should be held; return it memory-mapped."""
        series = self.series(key)
        series.begin(entry.about)
        series.write((0, 1), entry.arrays, entry.about)
        (written,) = series.finish([(0, 1)])
        return Entry(written.arrays(), written.about)

    def locked(self, keys: Iterable[str]) -> AbstractContextManager[None]:
        """Hold the locks of entries that are about to be written."""
        with disk_errors_as_user_errors(self.root):
            (self.root / locks.FOLDER).mkdir(parents=True, exist_ok=True)
        return locks.locked(self.root, [key for key in keys if not hashing.is_transient(key)])


class Series:
    """One entry: shards of consecutive rows, and a manifest once all are there."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def complete(self) -> list[Shard] | None:
        """Return all shards, verified; None if absent, damaged or with transient errors."""
        try:
            manifest = self._manifest()
            parts = self._read_all([(tuple(rows), sum_) for rows, sum_ in manifest["shards"]])
        except FileNotFoundError:
            return None
        except (Damaged, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("damaged entry in the store (%s): computing it again", error)
            return None
        return None if any(map(_has_transient_error, parts)) else parts

    def missing(self, wanted: Sequence[Rows]) -> list[Rows]:
        """Return the wanted shards that must be written; damaged ones are logged."""
        missing = []
        for rows in wanted:
            try:
                if not _has_transient_error(self._read(rows)):
                    continue
            except FileNotFoundError:
                pass
            except Damaged as error:
                log.warning("damaged shard in the store (%s): computing it again", error)
            missing.append(rows)
        return missing

    def begin(self, about: dict[str, Any]) -> None:
        """Mark the entry as incomplete, and delete half-written files of killed processes."""
        with disk_errors_as_user_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / MANIFEST).unlink(missing_ok=True)
            for leftover in self.folder.glob(".*"):
                leftover.unlink(missing_ok=True)
            write_text(self.folder / ABOUT, _json(about))

    def write(self, rows: Rows, arrays: dict[str, Tensor], about: dict[str, Any]) -> None:
        with disk_errors_as_user_errors(self.folder):
            shards.write(self._path(rows), arrays, about)

    def finish(self, wanted: Sequence[Rows]) -> list[Shard]:
        """Write the manifest, delete other shards' files, and return the shards."""
        try:
            parts = self._read_all([(rows, None) for rows in wanted])
        except (FileNotFoundError, Damaged) as error:
            raise DissectError(f"the store lost a file that was just written: {error}") from error
        listed = [[list(rows), part.checksum] for rows, part in zip(wanted, parts, strict=True)]
        body = {"key": self.key, "shards": listed}
        names = {self._path(rows).name for rows in wanted}
        with disk_errors_as_user_errors(self.folder):
            for stale in self.folder.glob("*.safetensors"):
                if stale.name not in names:
                    stale.unlink()
            manifest = {**body, "checksum": hashing.hash_values(body)}
            write_text(self.folder / MANIFEST, _json(manifest))
        return parts

    def used(self) -> None:
        """Record the time of this use; other reads of its files don't count."""
        with suppress(OSError):  # read-only, or owned by another user
            if (self.folder / MANIFEST).is_file():
                (self.folder / USED).touch()

    def _manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        body = {name: manifest[name] for name in ("key", "shards")}
        if hashing.hash_values(body) != manifest["checksum"] or manifest["key"] != self.key:
            raise Damaged(f"{self.folder / MANIFEST} differs from the one written")
        return manifest

    def _read_all(self, wanted: Sequence[tuple[Rows, str | None]]) -> list[Shard]:
        """Read shards in threads: hashing releases the interpreter's lock."""
        if len(wanted) == 1:
            return [self._read(*wanted[0])]
        with ThreadPoolExecutor(min(len(wanted), os.cpu_count() or 1)) as pool:
            return list(pool.map(lambda one: self._read(*one), wanted))

    def _read(self, rows: Rows, checksum: str | None = None) -> Shard:
        shard = shards.read(self._path(rows))
        if checksum is not None and shard.checksum != checksum:
            raise Damaged(f"{self._path(rows)} isn't the shard that the manifest names")
        return shard

    def _path(self, rows: Rows) -> Path:
        return self.folder / f"rows-{rows[0]:010d}-{rows[1]:010d}.safetensors"


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, indent=1) + "\n"


def _has_transient_error(shard: Shard) -> bool:
    return any(transient for *_, transient in shard.about.get("skipped", ()))


@contextmanager
def disk_errors_as_user_errors(folder: Path) -> Iterator[None]:
    """Convert errors of a full or forbidden disk into a DissectError."""
    try:
        yield
    except OSError as error:
        raise DissectError(
            f"the store can't be written ({error.strerror or error}): {folder}. Finished "
            f"shards are stored and will be used. Free space, or `clipdissect store prune`, or set "
            f"paths.store to another disk"
        ) from error
