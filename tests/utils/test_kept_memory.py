"""Memory is reused within a block, and returned to the system after it."""

from __future__ import annotations

import platform
import subprocess
import sys
from threading import Barrier, Thread

import pytest
from torch import nn

from clipdissect.capture.networks import on_device
from clipdissect.utils.memory import can_keep_memory, kept_memory, memory_is_kept

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries differ")

# In a process of its own: what other tests freed may serve these arrays.
MEASURE = """
import resource
import torch
from clipdissect.utils.memory import kept_memory

def faults(repeats=5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(repeats):
        torch.ones(80 << 18)  # 80 MB, made and freed
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

faults()
print(faults(), resident())
with kept_memory():
    faults(30)  # aligned arrays fit into each other's place only after some have been made
    print(faults(), resident())
print(0, resident())  # before an array is made in what the C library still manages
"""


@glibc
def test_memory_is_reused_within_the_block_and_returned_after_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    before, within, after = (tuple(map(int, line.split())) for line in done.stdout.splitlines())
    assert within[0] < before[0] / 10  # page faults
    assert within[1] > before[1] + 70  # MB of resident memory
    assert after[1] < before[1] + 10


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
