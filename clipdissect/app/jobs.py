"""Jobs of a run, guarded: a failure is kept as a file, and the other jobs of a multirun go on.

A job may run in another process or on another machine (hydra/launcher=joblib, submitit_local,
submitit_slurm), so its failure travels through its results folder, which all of them must see.
"""

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
    """Why a job has no result.

    Args:
        message: for the user.
        code: the exit code that it calls for: 1 a fault in the program or its surroundings, 2 a
            mistake in the request.
        trace: the traceback, of faults in the program.
        number: of the job in its multirun; None of a job alone.
        overrides: of the job, that the command line doesn't have word for word.
        launch: which command it belongs to.
    """

    message: str
    code: int = FAULT
    trace: str | None = None
    number: int | None = None
    overrides: tuple[str, ...] = ()
    launch: str = ""

    @property
    def job(self) -> str:
        """The job's name; empty for a job alone."""
        if self.number is None:
            return ""
        return f"job {self.number}" + (f" ({', '.join(self.overrides)})" if self.overrides else "")

    def tell(self) -> None:
        """Print it."""
        if self.trace:
            print(self.trace, file=sys.stderr)
        print(f"{self.job} error: {self.message}".lstrip(), file=sys.stderr)


def guard(
    run: Run, arguments: Sequence[str], unused: Mapping[str, str], launch: str, config: Any
) -> Any:
    """Do one job; gives what it returns, or a text on its failure, which no sweeper takes for a
    number.

    `failure.json` lies in the job's folder from the start and goes when the job is done: that of a
    killed process stays, and says so.

    Args:
        run: does one job.
        arguments: of the command line.
        unused: keys that the runner doesn't read, and what to do instead.
        launch: identity of the command, by which it knows its failures from others'.
        config: the job's.
    """
    set_up_logging(logging.INFO)  # of a process that the launcher started
    keep_memory()
    path = results_folder() / FAILURE
    number, overrides = identity()
    unfinished = Failure(
        UNFINISHED, FAULT, None, number, tuple(o for o in overrides if o not in arguments), launch
    )
    _write(path, unfinished)
    if unfinished.job:
        print(unfinished.job, flush=True)
    try:
        refuse(unused, overrides)
        result = run(config)
    except Exception as error:
        failure = replace(of_error(error, number, unfinished.overrides), launch=launch)
        _write(path, failure)
        return f"failed: {failure.message}"
    path.unlink(missing_ok=True)
    return result


def refuse(unused: Mapping[str, str], overrides: Iterable[str]) -> None:
    """Raise a DissectError where an override sets what the runner doesn't read.

    Args:
        unused: keys, of which all that is below them counts too, and what to do instead.
        overrides: of the command line, as in `probe.limit=10`.
    """
    from clipdissect.errors import DissectError

    for override in overrides:
        key = override.lstrip("+~").partition("=")[0].partition("@")[0]
        for name, instead in unused.items():
            if key == name or key.startswith(f"{name}."):
                raise DissectError(f"{override} does nothing in {job_name()}: {instead}")


def of_error(
    error: Exception, number: int | None = None, overrides: tuple[str, ...] = ()
) -> Failure:
    """A failure from what was raised."""
    from clipdissect.app.user_errors import explain

    message = explain(error)
    if message is not None:
        return Failure(message, MISTAKE, None, number, overrides)
    trace = "".join(traceback.format_exception(error)).rstrip()
    message = f"{type(error).__name__}: this is a fault in the program, not in what you asked for"
    return Failure(message, FAULT, trace, number, overrides)


def failures(launch: str) -> list[Failure]:
    """Failures of the jobs of one command, by number.

    Args:
        launch: as of `guard`; the command's folder may hold the failures of others.
    """
    from clipdissect.app.callbacks import Launched

    if Launched.folder is None:  # it failed before there was a job
        return []
    found = [_read(path) for path in Launched.folder.rglob(FAILURE)]
    own = [failure for failure in found if failure is not None and failure.launch == launch]
    return sorted(own, key=lambda failure: failure.number or 0)


def results_folder() -> Path:
    """The folder of the running job."""
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir)


def multirun() -> Path | None:
    """The folder of the multirun that the running job belongs to, if any."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    return Path(hydra.sweep.dir) if hydra.mode == RunMode.MULTIRUN else None


def identity() -> tuple[int | None, tuple[str, ...]]:
    """The running job's number in its multirun, if any, and its overrides."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    return (hydra.job.num if multirun() else None), tuple(hydra.overrides.task)


def job_name() -> str:
    """The runner's name."""
    from hydra.core.hydra_config import HydraConfig

    return str(HydraConfig.get().job.name)


def set_up_logging(level: int) -> None:
    """Our own messages from `level`, those of the libraries from WARNING on, bare, to stderr.

    Does nothing in a process where it has been done.
    """
    if logging.getLogger().handlers:
        return
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("clipdissect").setLevel(level)


def _write(path: Path, failure: Failure) -> None:
    from clipdissect.results.run_files import write_json

    write_json(path, asdict(failure))


def _read(path: Path) -> Failure | None:
    """The failure that a file describes; None of another program's or version's file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Failure(**values | {"overrides": tuple(values["overrides"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
