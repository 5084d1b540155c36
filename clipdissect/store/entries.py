"""Entries of the store, written shard by shard."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
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
from clipdissect.utils.files import write_text

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
ABOUT = "about.json"  # written first, so that an unfinished entry can be told what it is
USED = "used"  # empty; its modification time is when the entry was used last
Rows = tuple[int, int]


@dataclass(frozen=True)
class Entry:
    """What the store keeps under a key where everything comes at once.

    Args:
        arrays: name to array.
        about: JSON-able facts on where the arrays come from.
    """

    arrays: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)


class Store:
    """A folder of entries.

    Entries under keys that never come again (see `digest.is_transient`) go into a temporary folder,
    which lives as long as this object does.

    Args:
        root: the folder; made when first written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._holder: TemporaryDirectory[str] | None = None

    def series(self, key: str) -> Series:
        """The entry of a key, whole or not, to be read or written in shards."""
        root = self._passing() if hashing.is_transient(key) else self.root
        return Series(root / key[:2] / key, key)

    def _passing(self) -> Path:
        if self._holder is None:
            self._holder = TemporaryDirectory(prefix="clipdissect-", ignore_cleanup_errors=True)
        return Path(self._holder.name)

    def get(self, key: str) -> Entry | None:
        """The entry under a key, or None where it is absent, incomplete or damaged (logged)."""
        series = self.series(key)
        found = series.complete()
        if found is None:
            return None
        series.used()
        return Entry(found[0].arrays(), found[0].about)

    def put(self, key: str, entry: Entry) -> Entry:
        """Write an entry, replacing any older one under the key; its lock should be held.

        Returns:
            The entry as it was written, memory-mapped. `get` may not give it: where an image failed
            for a reason that may pass, it is of use to this run alone.

        Raises:
            DissectError: the disk is full or can't be written; no entry is then under the key.
        """
        series = self.series(key)
        series.begin(entry.about)
        series.write((0, 1), entry.arrays, entry.about)
        (written,) = series.finish([(0, 1)])
        return Entry(written.arrays(), written.about)

    def locked(self, keys: Iterable[str]) -> AbstractContextManager[None]:
        """Hold the locks of entries that are about to be written."""
        with worded(self.root):
            (self.root / locks.FOLDER).mkdir(parents=True, exist_ok=True)
        return locks.locked(self.root, [key for key in keys if not hashing.is_transient(key)])


class Series:
    """One entry: shards of consecutive rows, and a manifest once all are there.

    Args:
        folder: where its files are.
        key: its key.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def complete(self) -> list[Shard] | None:
        """All shards, verified, or None: absent, incomplete or damaged (logged).

        Where an image failed for a reason that may pass, the entry counts as incomplete.
        """
        try:
            manifest = self._manifest()
            found = [self._read(tuple(rows), checksum) for rows, checksum in manifest["shards"]]
        except FileNotFoundError:
            return None
        except (Damaged, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("damaged entry in the store (%s): computing it again", error)
            return None
        return None if any(map(_may_pass, found)) else found

    def missing(self, wanted: Sequence[Rows]) -> list[Rows]:
        """Those of the wanted shards that must be written; damaged ones are logged."""
        left = []
        for rows in wanted:
            try:
                if not _may_pass(self._read(rows)):
                    continue
            except FileNotFoundError:
                pass
            except Damaged as error:
                log.warning("damaged shard in the store (%s): computing it again", error)
            left.append(rows)
        return left

    def begin(self, about: dict[str, Any]) -> None:
        """Take away the mark of completeness and what a killed process left half-written."""
        with worded(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / MANIFEST).unlink(missing_ok=True)
            for leftover in self.folder.glob(".*"):
                leftover.unlink(missing_ok=True)
            write_text(self.folder / ABOUT, json.dumps(about, sort_keys=True, indent=1) + "\n")

    def write(self, rows: Rows, arrays: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Write one shard.

        Raises:
            DissectError: the disk is full or can't be written; whole shards stay.
        """
        with worded(self.folder):
            shards.write(self._path(rows), arrays, about)

    def finish(self, wanted: Sequence[Rows]) -> list[Shard]:
        """Write the manifest; returns the shards. Files that aren't of it go.

        Raises:
            DissectError: a shard is missing or damaged, or the disk is full.
        """
        try:
            found = [self._read(rows) for rows in wanted]
        except (FileNotFoundError, Damaged) as error:
            raise DissectError(f"the store lost a file that was just written: {error}") from error
        marks = [[list(rows), shard.checksum] for rows, shard in zip(wanted, found, strict=True)]
        body = {"key": self.key, "shards": marks}
        with worded(self.folder):
            names = {self._path(rows).name for rows in wanted}
            for stale in self.folder.glob("*.safetensors"):
                if stale.name not in names:
                    stale.unlink()
            text = json.dumps(
                {**body, "checksum": hashing.hash_values(body)}, sort_keys=True, indent=1
            )
            write_text(self.folder / MANIFEST, text + "\n")
        return found

    def used(self) -> None:
        """Note that the entry was used now; reading its files for other ends doesn't count."""
        with suppress(OSError):  # somebody else's store, or one that is read-only
            if (self.folder / MANIFEST).is_file():
                (self.folder / USED).touch()

    def _manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.folder / MANIFEST).read_text(encoding="utf-8"))
        body = {name: manifest[name] for name in ("key", "shards")}
        if hashing.hash_values(body) != manifest["checksum"] or manifest["key"] != self.key:
            raise Damaged(f"{self.folder / MANIFEST} isn't what was written")
        return manifest

    def _read(self, rows: Rows, checksum: str | None = None) -> Shard:
        shard = shards.read(self._path(rows))
        if checksum is not None and shard.checksum != checksum:
            raise Damaged(f"{self._path(rows)} isn't the shard that the manifest names")
        return shard

    def _path(self, rows: Rows) -> Path:
        return self.folder / f"rows-{rows[0]:010d}-{rows[1]:010d}.safetensors"


def _may_pass(shard: Shard) -> bool:
    """Whether an image of the shard failed for a reason that may not last."""
    return any(passing for *_, passing in shard.about.get("skipped", ()))


@contextmanager
def worded(folder: Path) -> Iterator[None]:
    """A full or forbidden disk, or something in the folder's place, as an error for people.

    Raises:
        DissectError: says what to do about it.
    """
    try:
        yield
    except OSError as error:
        raise DissectError(
            f"the store can't be written ({error.strerror or error}): {folder}. What was finished "
            f"is kept and will be used. Free space, or `clipdissect store prune`, or set "
            f"paths.store to another disk"
        ) from error
