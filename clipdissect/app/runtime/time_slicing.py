"""Processes that take turns, each paused while another runs, so that they see the same machine.

A machine's speed drifts within minutes, by more than what is to be measured, and a job in a library
call can't be asked to wait. So every side of a comparison is a process that is stopped and
continued by signals, in slices of about a second; a clock that both processes see stands still
meanwhile.
"""

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
    """Seconds that don't count the pauses; a `clock` for `clipdissect.utils.timing`.

    Args:
        path: the file that the pausing process writes; made where it doesn't exist.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(struct.pack("d", 0.0))
        with path.open("r+b") as file:
            self._paused = mmap.mmap(file.fileno(), 8)

    def __call__(self) -> float:
        """Seconds since some moment, without the pauses."""
        return time.perf_counter() - self.paused

    @property
    def paused(self) -> float:
        """Seconds of all pauses so far."""
        found: float = struct.unpack("d", self._paused[:8])[0]
        return found

    def add(self, seconds: float) -> None:
        """Count a pause."""
        self._paused[:8] = struct.pack("d", self.paused + seconds)


class Side:
    """One process, paused but for its turns. It answers each line of its input by one line.

    Args:
        name: what to call it in errors.
        module: run as `python -m module clock argument ...`; its output is its answers alone.
        arguments: for it.
        clock: the file of its clock.
        environment: of the process; this one's by default.

    Raises:
        DissectError: the platform has no signals that pause.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        clock: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if not hasattr(signal, "SIGSTOP"):
            raise DissectError("this measurement pauses processes, which needs Linux or macOS")
        self.name, self.clock, self.expected = name, PausedClock(clock), 1.0
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, str(clock), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=environment,
        )
        self._since: float | None = None  # when the pause began

    def ask(self, message: Mapping[str, Any]) -> None:
        """Send a line; a paused process reads it in its next turn."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # told when the answer is waited for
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def turn(self, seconds: float | None) -> dict[str, Any] | None:
        """Let it run for so long, or until it answers; the answer, if there was one.

        Raises:
            DissectError: a mistake that it told of.
            RuntimeError: it ended.
        """
        assert self.process.stdout is not None
        self._resume()
        answered = bool(select.select([self.process.stdout], [], [], seconds)[0])
        if not answered:
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
        """Stop it, with the processes that it started, unless it is stopped already."""
        if self._since is not None:
            return
        with suppress(ProcessLookupError, ChildProcessError):
            os.killpg(self.process.pid, signal.SIGSTOP)
            os.waitpid(self.process.pid, os.WUNTRACED)  # until it has stopped
        self._since = time.perf_counter()

    def close(self) -> None:
        """End it, with the processes that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                pipe.close() if pipe else None
        self.process.wait()

    def _resume(self) -> None:
        if self._since is None:
            return
        self.clock.add(time.perf_counter() - self._since)
        self._since = None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGCONT)


def end_with_parent() -> None:
    """Let this process be killed when the one that started it ends, where Linux can do that.

    A stopped process wouldn't notice by itself.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def alternate(
    sides: Sequence[Side], messages: Sequence[Mapping[str, Any]], slice_s: float
) -> list[dict[str, Any]]:
    """Ask all sides and let them take turns until each has answered.

    The turn goes to the side that is least far on, by what it took the last time, so that all end
    at about the same time although one needs many times as long.

    Args:
        sides: the processes, idle.
        messages: one for each.
        slice_s: seconds of a turn.

    Returns:
        The answers; each side's `expected` is then the seconds that it ran.

    Raises:
        DissectError, RuntimeError: see `Side.turn`.
    """
    active = dict.fromkeys(range(len(sides)), 0.0)
    answers: dict[int, dict[str, Any]] = {}
    for side, message in zip(sides, messages, strict=True):
        side.pause()
        side.ask(message)
    while len(answers) < len(sides):
        waiting = [n for n in active if n not in answers]
        next_ = min(waiting, key=lambda n: active[n] / sides[n].expected)
        start = time.perf_counter()
        answer = sides[next_].turn(slice_s if len(waiting) > 1 else None)
        active[next_] += time.perf_counter() - start
        if answer is not None:
            answers[next_] = answer
    for n, side in enumerate(sides):
        side.expected = max(active[n], 1e-3)
    return [answers[n] for n in range(len(sides))]
