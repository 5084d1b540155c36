"""How the C library hands out memory for activations: kept between batches, in large pages."""

from __future__ import annotations

import ctypes
import os

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4

# Tells torch to take large pages for tensors; read when it makes its first one.
LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"

_kept = False


def keep_memory() -> bool:
    """Let this process keep the memory that it frees, and take large pages for tensors.

    glibc asks the system for every array of more than 32 MB anew and gives it back when it is
    freed, so that each batch touches fresh pages. The networks then wait for page faults, a third
    of the time and more on CPUs (docs/capture.md). Here freed memory stays with the process, which
    thus holds the most that it ever needed, to its end.

    For programs of one's own, such as the command line, which calls this; a library mustn't decide
    it for others. Call it before torch makes its first tensor, or large pages aren't taken.

    Returns:
        Whether the C library was told; False where it isn't glibc.

    Source: mallopt(3); large pages are torch's own, by THP_MEM_ALLOC_ENABLE.
    """
    os.environ.setdefault(LARGE_PAGES, "1")
    global _kept
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    _kept = bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
    return _kept


def memory_is_kept() -> bool:
    """Whether `keep_memory` has told the C library so in this process."""
    return _kept
