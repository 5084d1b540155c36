"""Reuse of memory between batches, and huge pages for tensors."""

from __future__ import annotations

import ctypes
import os

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4

# Makes torch use huge pages for tensors; read when it allocates its first one.
LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"

_kept = False


def keep_memory() -> bool:
    """Keep freed memory in the process and use huge pages for tensors; False without glibc.

    Call it before torch allocates its first tensor. The process then holds its peak memory to its
    end, so only the command line calls this, not the library.
    """
    # glibc returns arrays above 32 MB to the system, and touching fresh pages then takes a third of
    # the time or more on CPUs (docs/capture.md). Source: mallopt(3).
    os.environ.setdefault(LARGE_PAGES, "1")
    global _kept
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    _kept = bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
    return _kept


def memory_is_kept() -> bool:
    """Return whether `keep_memory` took effect in this process."""
    return _kept
