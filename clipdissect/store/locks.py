"""Locks on entries, so that processes that need the same one compute it once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

FOLDER = "locks"  # below the store's folder


@contextmanager
def locked(root: Path, keys: Iterable[str]) -> Iterator[None]:
    """Hold the locks of keys of the store at `root`; a holder that dies releases them."""
    with ExitStack() as stack:
        for key in sorted(set(keys)):  # in the same order everywhere, against deadlocks
            lock = _lock(root, key)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                log.info("another process is computing the same features: waiting for it")
                lock.acquire()
            stack.callback(lock.release)
        yield


@contextmanager
def if_free(root: Path, key: str) -> Iterator[bool]:
    """Hold a key's lock if it is free; yield whether it is held."""
    lock = _lock(root, key)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def known(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / FOLDER).glob("*.lock"))


def remove(root: Path, key: str) -> None:
    """Delete a key's lock file, which should be held."""
    with suppress(OSError):  # Windows keeps open files
        _path(root, key).unlink()


def _lock(root: Path, key: str) -> FileLock:
    path = _path(root, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The operating system's lock on an open file: it is released when the process ends.
    return FileLock(path, is_singleton=False)


def _path(root: Path, key: str) -> Path:
    return root / FOLDER / f"{key}.lock"
