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
    """Keep freed memory in the process and use huge pages for tensors.

    glibc requests every array above 32 MB from the system and returns it when it is freed, so that
    each batch touches fresh pages; page faults then take a third of the time and more on CPUs
    (docs/capture.md). With this, the process holds its peak memory to its end.

    The command line calls this; a library must not decide it for other programs. Call it before
    torch allocates its first tensor, or huge pages aren't used.

    Returns:
        Whether it took effect; False where the C library isn't glibc.

    Source: mallopt(3); huge pages are torch's own, by THP_MEM_ALLOC_ENABLE.
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
    """Whether `keep_memory` took effect in this process."""
    return _kept
