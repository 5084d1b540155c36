"""Guard jobs: record a failure in a file and continue the multirun.

Failures pass through the results folder, which all jobs must see: launchers may run a
job in another process or on another machine (joblib, submitit_local, submitit_slurm)."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from clipdissect.utils.memory import keep_memory

FAILURE = "failure.json"
FAULT, MISTAKE = 1, 2  # exit codes
UNFINISHED = (
    "its process ended before the job did: killed, out of memory, or over its time limit (of "
    "submitit's jobs the logs are in .submitit, in the multirun's folder)"
)

Run = Callable[[Any], Any]


@dataclass(frozen=True)
class Failure:
    """The reason why a job has no result; `code` is `FAULT` or `MISTAKE`.

    `number` is the job's in its multirun; `overrides` lacks those on the command line.
    """

    message: str
    code: int = FAULT
    trace: str | None = None
    number: int | None = None
    overrides: tuple[str, ...] = ()
    launch: str = ""

    @property
    def job(self) -> str:
        if self.number is None:
            return ""
        return f"job {self.number}" + (f" ({', '.join(self.overrides)})" if self.overrides else "")

    def print(self) -> None:
        if self.trace:
            print(self.trace, file=sys.stderr)
        print(f"{self.job} error: {self.message}".lstrip(), file=sys.stderr)


def guard(
    run: Run, arguments: Sequence[str], unused: Mapping[str, str], launch: str, config: Any
) -> Any:
    """Run a job; return its result or its failure, which sweepers don't take for a number.

    `failure.json` exists until the job is done, so a killed process leaves it behind.
    """
    set_up_logging(logging.INFO)  # the launcher may have started this process
    keep_memory()
    path = results_folder() / FAILURE
    number, overrides = identity()
    changed = tuple(o for o in overrides if o not in arguments)
    unfinished = Failure(UNFINISHED, number=number, overrides=changed, launch=launch)
    _write(path, unfinished)
    if unfinished.job:
        print(unfinished.job, flush=True)
    try:
        refuse(unused, overrides)
        result = run(config)
    except Exception as error:
        failure = replace(of_error(error), number=number, overrides=changed, launch=launch)
        _write(path, failure)
        return f"failed: {failure.message}"
    path.unlink(missing_ok=True)
    return result


def refuse(unused: Mapping[str, str], overrides: Iterable[str]) -> None:
    """Raise a DissectError if an override sets a key in `unused`, or a key below it."""
    from clipdissect.errors import DissectError

    for override in overrides:
        key = override.lstrip("+~").partition("=")[0].partition("@")[0]
        for name, instead in unused.items():
            if key == name or key.startswith(f"{name}."):
                raise DissectError(f"{override} does nothing in {job_name()}: {instead}")


def of_error(error: Exception) -> Failure:
    """Return the failure for an exception: a user's mistake if it can be explained."""
    from clipdissect.app.user_errors import explain

    message = explain(error)
    if message is not None:
        return Failure(message, MISTAKE)
    trace = "".join(traceback.format_exception(error)).rstrip()
    message = (
        f"{type(error).__name__}: this is a fault in the program, not a mistake in your request"
    )
    return Failure(message, FAULT, trace)


def failures(launch: str) -> list[Failure]:
    """Read the failures of one command by number; the folder may hold other commands' too."""
    from clipdissect.app.callbacks import Launched

    if Launched.folder is None:  # it failed before there was a job
        return []
    read = [_read(path) for path in Launched.folder.rglob(FAILURE)]
    matching = [failure for failure in read if failure is not None and failure.launch == launch]
    return sorted(matching, key=lambda failure: failure.number or 0)


def _write(path: Path, failure: Failure) -> None:
    from clipdissect.results.run_files import write_json

    write_json(path, asdict(failure))


def _read(path: Path) -> Failure | None:
    """Read a failure; None if the file is of another program or version."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Failure(**values | {"overrides": tuple(values["overrides"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _hydra() -> Any:
    from hydra.core.hydra_config import HydraConfig

    return HydraConfig.get()


def results_folder() -> Path:
    return Path(_hydra().runtime.output_dir)


def multirun() -> Path | None:
    from hydra.types import RunMode

    hydra = _hydra()
    return Path(hydra.sweep.dir) if hydra.mode == RunMode.MULTIRUN else None


def identity() -> tuple[int | None, tuple[str, ...]]:
    """Return the running job's number in its multirun, if any, and its overrides."""
    hydra = _hydra()
    return (hydra.job.num if multirun() else None), tuple(hydra.overrides.task)


def job_name() -> str:
    return str(_hydra().job.name)


def set_up_logging(level: int) -> None:
    """Log to stderr: the library from `level`, others from WARNING; keep existing handlers."""
    if logging.getLogger().handlers:
        return
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("clipdissect").setLevel(level)
