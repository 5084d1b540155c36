"""What every runner's `main` does: find `conf/`, run Hydra, and word errors for people."""

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

__all__ = ["launch", "launch_without_folder", "results_folder"]

WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-name", "-cn", "--config-dir", "-cd")


# What the runners don't read, apart from the one that does.
NO_OBJECTIVE = {"objective": "only dissect has one"}


def launch(run: Run, name: str, unused: Mapping[str, str] = NO_OBJECTIVE) -> None:
    """Compose the config from the command line and call `run` with it; exits on an error.

    In a multirun a failed job doesn't stop the others, in whatever processes they run; all failures
    are told at the end.
    Exit codes: 0 done, 1 a fault in the program, 2 a mistake in the request, 130 interrupted.

    Args:
        run: does one job; its config is checked against the schemas.
        name: the runner's, as in `experiments.<name>`.
        unused: keys of the config that it doesn't read, which the command line mustn't set, and
            what to do instead.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(runner_help(name))
        return
    sys.argv[1:] = _flags_first(sys.argv[1:])
    leads = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    set_up_logging(logging.INFO if leads else logging.WARNING)
    if not leads:
        os.environ["TQDM_DISABLE"] = "1"  # one progress bar is enough
        sys.argv += _without_folder()
    os.environ["HYDRA_MAIN_MODULE"] = f"clipdissect.app.experiments.{name}"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, to be worded here
    # Not a function of this place: it is pickled where jobs run in other processes.
    identity = uuid.uuid4().hex
    job = functools.wraps(run)(functools.partial(guard, run, tuple(sys.argv), unused, identity))
    stopped = []
    try:
        _hydra_main(job)()
    except KeyboardInterrupt:
        print("interrupted; features that were finished are in the store", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        stopped.append(of_error(error))
    told = failures(identity) + stopped
    for failure in told:
        failure.tell()
    if told:
        sys.exit(max(failure.code for failure in told))


def launch_without_folder(run: Run, name: str) -> None:
    """As `launch`, for a command that writes nothing: what Hydra itself writes is thrown away.

    Args:
        run: as of `launch`.
        name: as of `launch`.
    """
    with tempfile.TemporaryDirectory(prefix="clipdissect-") as passing:
        sys.argv += [f"hydra.run.dir={passing}", f"hydra.sweep.dir={passing}"]
        launch(run, name)


def _flags_first(arguments: list[str]) -> list[str]:
    """Hydra's flags before the overrides: argparse, which it uses, refuses them between."""
    flags, overrides = [], []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        flags.append(argument)
        if argument in WITH_VALUE:
            flags.extend(value for value in [next(rest, None)] if value is not None)
    return flags + overrides


def _without_folder() -> list[str]:
    """Overrides for a process that writes no results: Hydra makes a folder in any case."""
    folder = tempfile.mkdtemp(prefix="clipdissect-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return ["hydra.output_subdir=null", f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]


def _hydra_main(run: Run) -> Callable[[], None]:
    import hydra

    from clipdissect.app.callbacks import Launched
    from clipdissect.app.schema import register

    register()
    Launched.job = run
    wrapped: Callable[[], None] = hydra.main(
        version_base="1.3", config_path=str(conf_folder()), config_name="config"
    )(run)
    return wrapped
