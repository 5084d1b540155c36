"""Processes that take turns, each paused while another runs, to share the machine's speed.

That speed drifts within minutes, by more than the measured differences, and a library
call can't be asked to wait. So signals stop and continue each side's process, in slices
of about a second, and a clock that both processes read excludes the pauses."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from clipdissect.errors import DissectError


class PausedClock:
    """Seconds without pauses, for `clipdissect.utils.timing`; `path` is shared and created."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(struct.pack("d", 0.0))
        with path.open("r+b") as file:
            self._paused = mmap.mmap(file.fileno(), 8)

    def __call__(self) -> float:
        return time.perf_counter() - self.paused

    @property
    def paused(self) -> float:
        seconds: float = struct.unpack("d", self._paused[:8])[0]
        return seconds

    def add(self, seconds: float) -> None:
        self._paused[:8] = struct.pack("d", self.paused + seconds)


class PausedProcess:
    """A process, paused except in its turns, that answers each input line by one line.

    It runs `python -m module clock argument ...`, which prints nothing but its answers.
    """

    def __init__(self, name: str, module: str, arguments: Sequence[str], clock: Path) -> None:
        if not hasattr(signal, "SIGSTOP"):
            raise DissectError("this measurement pauses processes, which needs Linux or macOS")
        self.name, self.clock = name, PausedClock(clock)
        self.expected = 1.0  # seconds that its last answer took
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, str(clock), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._paused_at: float | None = None

    def ask(self, message: Mapping[str, Any]) -> None:
        """Send a line; a paused process reads it in its next turn."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # `turn` raises it
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def turn(self, seconds: float | None) -> dict[str, Any] | None:
        """Run for this long or until the answer; raise its error if it has one."""
        assert self.process.stdout is not None
        if self._paused_at is not None:
            self.clock.add(time.perf_counter() - self._paused_at)
            self._paused_at = None
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGCONT)
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            self.pause()
            return None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.name} ended; see its messages above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise DissectError(answer["error"])
        return answer

    def pause(self) -> None:
        if self._paused_at is not None:
            return
        with suppress(ProcessLookupError, ChildProcessError):
            os.killpg(self.process.pid, signal.SIGSTOP)
            os.waitpid(self.process.pid, os.WUNTRACED)  # until it has stopped
        self._paused_at = time.perf_counter()

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                pipe.close() if pipe else None
        self.process.wait()


def end_with_parent() -> None:
    """Kill this process when its parent ends, on Linux: a stopped process wouldn't notice."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def alternate(
    processes: Sequence[PausedProcess], messages: Sequence[Mapping[str, Any]], slice_s: float
) -> list[dict[str, Any]]:
    """Send each process its message and give turns of `slice_s` seconds until all answer.

    The turn goes to the process with the least progress, relative to its last answer's
    seconds, so that all end at about the same time, even with very different needs. Raises
    as `PausedProcess.turn`.
    """
    active = [0.0] * len(processes)
    answers: dict[int, dict[str, Any]] = {}
    for process, message in zip(processes, messages, strict=True):
        process.pause()
        process.ask(message)
    while len(answers) < len(processes):
        waiting = [i for i in range(len(processes)) if i not in answers]
        index = min(waiting, key=lambda i: active[i] / processes[i].expected)
        start = time.perf_counter()
        answer = processes[index].turn(slice_s if len(waiting) > 1 else None)
        active[index] += time.perf_counter() - start
        if answer is not None:
            answers[index] = answer
    for process, seconds in zip(processes, active, strict=True):
        process.expected = max(seconds, 1e-3)
    return [answers[i] for i in range(len(processes))]
