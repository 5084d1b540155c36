"""Reuse of memory between the batches of a pass on the CPU."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
# Setting any of them ends glibc's own adaptation of the thresholds, so these are where it ends in a
# program that frees large arrays: mmap above 32 MB, and twice that. Source: mallopt(3).
_RESTORED = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
_USER_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")

_lock = Lock()
_blocks = 0  # that keep memory now, in any thread


@contextmanager
def kept_memory(device: str = "cpu") -> Iterator[None]:
    """Reuse freed memory within the block, and return it to the system afterwards.

    glibc otherwise returns each array above 32 MB at once, and touching fresh pages then takes as
    long as the networks (docs/capture.md). Nothing happens where `can_keep_memory` is False, or
    where the block's work is on another device than the CPU. Blocks may be nested and in several
    threads.
    """
    if not device.startswith("cpu") or not can_keep_memory():
        yield
        return
    _enter(1)
    try:
        yield
    finally:
        _enter(-1)


def can_keep_memory() -> bool:
    """Return whether the C library is glibc, and the user hasn't set its limits."""
    set_by_user = [name for name in _USER_SETTINGS if name in os.environ]
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return _glibc() is not None and not set_by_user and "glibc.malloc" not in tunables


def memory_is_kept() -> bool:
    """Return whether a block of `kept_memory` is running."""
    return _blocks > 0


def _enter(change: int) -> None:
    global _blocks
    with _lock:
        was_kept, _blocks = _blocks > 0, _blocks + change
        if was_kept == (_blocks > 0):
            return
        glibc = _glibc()
        for name, value in (_KEPT if _blocks else _RESTORED).items():
            glibc.mallopt(name, value)
        if not _blocks:
            glibc.malloc_trim(0)


@cache
def _glibc() -> Any:
    """Return glibc, or None where the C library is another one (musl, macOS, Windows)."""
    try:
        library = ctypes.CDLL(None)
        return library if library.gnu_get_libc_version and library.malloc_trim else None
    except (AttributeError, OSError, TypeError):
        return None
