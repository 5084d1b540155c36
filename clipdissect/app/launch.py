"""Run Hydra for an experiment's `main`, guard its jobs, and explain errors.

A failure is recorded in a file of the results folder, which all jobs must see: launchers may
run a job in another process or on another machine (joblib, submitit_local, submitit_slurm)."""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import shutil
import sys
import tempfile
import traceback
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from clipdissect.app.help import conf_folder, runner_help
from clipdissect.results.sweeps import not_given
from clipdissect.utils.memory import kept_memory

VALUE_FLAGS = ("--cfg", "-c", "--package", "-p", "--config-name", "-cn", "--config-dir", "-cd")

# Config keys that the runners don't read, except for score, or for dissect.
ONLY_SCORE = dict.fromkeys(
    ("run", "against", "scores", "scorer", "text_images"), "only score scores the labels of runs"
)
ONLY_DISSECT = {
    "objective": "only dissect has one",
    "sae": "only dissect describes the latents of sparse autoencoders",
    **ONLY_SCORE,
}


def launch(run: Run, name: str, unused: Mapping[str, str] = ONLY_DISSECT) -> None:
    """Compose the config from the command line and call `run`; exit on an error.

    A failed job of a multirun doesn't stop the others. Exit codes: 0 done, 1 a fault in the
    program, 2 a mistake in the request, 130 interrupted. `unused` maps config keys that the
    experiment ignores to advice; setting them is an error.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(runner_help(name))
        return
    sys.argv[1:] = _flags_first(sys.argv[1:])
    leads = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    set_up_logging(logging.INFO if leads else logging.WARNING)
    if not leads:
        os.environ["TQDM_DISABLE"] = "1"  # one progress bar is enough
        sys.argv += temporary_folder()
    os.environ["HYDRA_MAIN_MODULE"] = f"clipdissect.app.experiments.{name}"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors are explained here, not by Hydra
    # Not a local function: launchers pickle it for other processes.
    launch_id = uuid.uuid4().hex
    job = functools.wraps(run)(functools.partial(guard, run, tuple(sys.argv), unused, launch_id))
    errors = []
    try:
        _hydra_main(job)()
    except KeyboardInterrupt:
        print("interrupted; finished features are in the store", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        errors.append(of_error(error))
    errors = failures(launch_id) + errors
    for failure in errors:
        failure.print()
    if errors:
        sys.exit(max(failure.code for failure in errors))


def launch_study(run: Run, name: str) -> None:
    """Launch a study with the config group `study` set to its name."""
    if not {"--help", "-h"} & set(sys.argv[1:]):
        sys.argv.append(f"study={name}")
    launch(run, name)


def _flags_first(arguments: list[str]) -> list[str]:
    """Move flags before the overrides: argparse refuses them in between."""
    flags, overrides = [], []
    remaining = iter(arguments)
    for argument in remaining:
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        flags.append(argument)
        if argument in VALUE_FLAGS:
            flags.extend(value for value in [next(remaining, None)] if value is not None)
    return flags + overrides


def temporary_folder() -> list[str]:
    """Return overrides for a process without results: Hydra always creates a folder."""
    folder = tempfile.mkdtemp(prefix="clipdissect-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return ["hydra.output_subdir=null", f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]


def _hydra_main(run: Run) -> Callable[[], None]:
    import hydra

    from clipdissect.app.callbacks import Launched
    from clipdissect.app.schema import register

    register()
    Launched.job = run
    main = hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
    return cast(Callable[[], None], main(run))


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
    path = results_folder() / FAILURE
    number, overrides = identity()
    changed = tuple(not_given(overrides, arguments))
    unfinished = Failure(UNFINISHED, number=number, overrides=changed, launch=launch)
    _write(path, unfinished)
    if unfinished.job:
        print(unfinished.job, flush=True)
    try:
        refuse(unused, overrides)
        with kept_memory():
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
