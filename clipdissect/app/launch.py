"""Run Hydra for an experiment's `main`, and explain errors."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping

from clipdissect.app.help import conf_folder, runner_help
from clipdissect.app.jobs import Run, failures, guard, of_error, results_folder, set_up_logging

__all__ = ["launch", "launch_study", "launch_without_folder", "results_folder"]

VALUE_FLAGS = ("--cfg", "-c", "--package", "-p", "--config-name", "-cn", "--config-dir", "-cd")

# Config keys that the runners don't read, except for dissect.
NO_OBJECTIVE = {"objective": "only dissect has one"}


def launch(run: Run, name: str, unused: Mapping[str, str] = NO_OBJECTIVE) -> None:
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
        sys.argv += _temporary_folder()
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


def launch_without_folder(run: Run, name: str) -> None:
    """Launch a command that writes nothing; Hydra's files are discarded."""
    sys.argv += _temporary_folder()
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


def _temporary_folder() -> list[str]:
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
    wrapped: Callable[[], None] = main(run)
    return wrapped
