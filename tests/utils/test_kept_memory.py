"""Memory is reused within a block, and returned to the system after it."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from pathlib import Path
from threading import Barrier, Thread

import pytest
import torch
from torch import nn

from clipdissect.capture.networks import on_device
from clipdissect.utils.memory import can_keep_memory, kept_memory, memory_is_kept

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries differ")
MB = 1 << 20


def faults(repeats: int = 5) -> int:
    """Return the page faults of an array of 80 MB that is made and freed a few times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(repeats):
        torch.ones(20 * MB)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@glibc
def test_memory_is_reused_within_the_block_and_returned_after_it() -> None:
    given_back, before = faults(), resident()
    with kept_memory():
        faults(1)
        assert faults() < given_back / 10
        assert resident() > before + 70 * MB
    assert resident() < before + 10 * MB
    assert faults() > given_back / 2  # as before the block


@glibc
def test_blocks_may_be_nested_and_in_several_threads() -> None:
    entered, leave = Barrier(2), Barrier(2)

    def other() -> None:
        with kept_memory():
            entered.wait()
            leave.wait()

    thread = Thread(target=other)
    with kept_memory(), kept_memory():
        thread.start()
        entered.wait()
    assert memory_is_kept()  # the thread's block runs
    leave.wait()
    thread.join()
    assert not memory_is_kept()


@glibc
def test_memory_is_returned_after_an_error() -> None:
    with pytest.raises(ValueError, match="inside"), kept_memory():
        raise ValueError("inside")
    assert not memory_is_kept()


@glibc
def test_every_pass_on_a_cpu_keeps_memory() -> None:
    with on_device(nn.Linear(2, 2), "cpu"):
        assert memory_is_kept()
    with kept_memory("cuda:0"):
        assert not memory_is_kept()


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_MMAP_MAX_", "9"), ("GLIBC_TUNABLES", "glibc.malloc.mmap_max=9")]
)
def test_limits_that_the_user_has_set_stay(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert not can_keep_memory()
    with kept_memory():
        assert not memory_is_kept()


def test_nothing_happens_with_another_c_library() -> None:
    program = """
import ctypes
ctypes.CDLL = lambda name: object()
from clipdissect.utils.memory import can_keep_memory, kept_memory, memory_is_kept
with kept_memory():
    assert not memory_is_kept() and not can_keep_memory()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
