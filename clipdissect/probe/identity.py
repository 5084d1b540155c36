"""Identities of image files: the part of a cache key that changes with a file."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
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


def file_identities(root: Path, names: Sequence[str], identity: str) -> list[str]:
    """Return an identity per file below `root`; see `ProbeOptions.identity`."""
    stats = [_stat(root / name) for name in names]
    if identity == "content":
        return _cached_digests(root, names, stats)
    return [f"{n} {s.st_size} {s.st_mtime_ns}" for n, s in zip(names, stats, strict=True)]


def _cached_digests(root: Path, names: Sequence[str], stats: Sequence[os.stat_result]) -> list[str]:
    """Return the SHA-256 per file, reading only files that changed since the last call."""
    cache = cache_dir() / "digests" / f"{hashing.hash_values(str(root.resolve()))}.json"
    known = _load(cache)
    note_use(cache)
    # ctime too: every write updates it, and users can't set it back.
    keys = {n: [s.st_size, s.st_mtime_ns, s.st_ctime_ns] for n, s in zip(names, stats, strict=True)}
    changed = [name for name, key in keys.items() if known.get(name, [])[:3] != key]
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        digests = pool.map(_hash_file, (root / name for name in changed))
        # disable=None: shown only in a terminal.
        progress = tqdm(digests, "digests", len(changed), disable=None if changed else True)
        updates = {
            name: [*keys[name], digest] for name, digest in zip(changed, progress, strict=True)
        }
    known |= updates
    if updates:
        try:
            write_text(cache, json.dumps(known))
        except OSError as error:
            log.warning("can't cache the file hashes in %s: %s", cache, error.strerror)
    return [str(known[name][3]) for name in names]


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise DissectError(f"can't access {path}: {error.strerror}") from error


def _hash_file(path: Path) -> str:
    try:
        return hashing.hash_file(path)
    except OSError as error:
        raise DissectError(f"can't read {path} to hash it: {error.strerror}") from error


def _load(cache: Path) -> dict[str, list[Any]]:
    try:
        entries = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(entries, dict):
        return {}
    return {n: entry for n, entry in entries.items() if isinstance(entry, list) and len(entry) == 4}
