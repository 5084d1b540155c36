"""What tells one image file from another."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clipdissect.errors import DissectError
from clipdissect.utils import hashing
from clipdissect.utils.files import note_use, write_text
from clipdissect.utils.paths import cache_dir

log = logging.getLogger(__name__)

THREADS = 8


def of_files(root: Path, names: Sequence[str], identity: str) -> list[str]:
    """An identity for each file below `root`: see `ProbeOptions.identity`.

    Raises:
        DissectError: a file that can't be looked at, or read.
    """
    if identity == "content":
        return _digests(root, names)
    stats = [_stat(root / name) for name in names]
    return [f"{n} {s.st_size} {s.st_mtime_ns}" for n, s in zip(names, stats, strict=True)]


def _digests(root: Path, names: Sequence[str]) -> list[str]:
    """SHA-256 of each file; only of those that changed since they were last digested.

    A file counts as unchanged where its size, modification time and change time are: the last
    moves with every rewriting and can't be set back.
    """
    record = cache_dir() / "digests" / f"{hashing.hash_values(str(root.resolve()))}.json"
    known = _load(record)
    note_use(record)
    stats = [_stat(root / name) for name in names]
    stamps = [[s.st_size, s.st_mtime_ns, s.st_ctime_ns] for s in stats]
    new = [n for n, stamp in zip(names, stamps, strict=True) if known.get(n, [])[:3] != stamp]
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        done = pool.map(_of_file, (root / name for name in new))
        fresh = dict(zip(new, _bar(done, len(new)), strict=True))
    found = [fresh[n] if n in fresh else str(known[n][3]) for n in names]
    if fresh:
        entries = {n: [*s, d] for n, s, d in zip(names, stamps, found, strict=True)}
        _save(record, {**known, **entries})
    return found


def _bar(done: Iterable[str], count: int) -> Iterable[str]:
    # None: shown where there is a terminal.
    return tqdm(done, "digests", count, disable=None if count else True)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DissectError(f"can't look at {path}: {error.strerror}") from error


def _of_file(path: Path) -> str:
    try:
        return hashing.hash_file(path)
    except OSError as error:
        raise DissectError(f"can't read {path} to digest it: {error.strerror}") from error


def _load(record: Path) -> dict[str, list[Any]]:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    whole = found.items() if isinstance(found, dict) else ()
    return {n: entry for n, entry in whole if isinstance(entry, list) and len(entry) == 4}


def _save(record: Path, entries: Mapping[str, Any]) -> None:
    try:
        write_text(record, json.dumps(entries))
    except OSError as error:
        log.warning("the files' digests aren't kept (%s): %s", record, error.strerror)
