"""What every runner's `main` does: find `conf/`, run Hydra, and word errors for people."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.help import conf_folder, runner_help

Run = Callable[[Any], Any]
WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-name", "-cn", "--config-dir", "-cd")


def launch(run: Run, name: str) -> None:
    """Compose the config from the command line and call `run` with it; exits on an error.

    In a multirun a failed job doesn't stop the others; all failures are told at the end.
    Exit codes: 0 done, 1 a fault in the program, 2 a mistake in the request, 130 interrupted.

    Args:
        run: does one job; its config is checked against the schemas.
        name: the runner's, as in `experiments.<name>`.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(runner_help(name))
        return
    sys.argv[1:] = _flags_first(sys.argv[1:])
    leads = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    _set_up_logging(logging.INFO if leads else logging.WARNING)
    if not leads:
        os.environ["TQDM_DISABLE"] = "1"  # one progress bar is enough
        sys.argv += _without_folder()
    os.environ["HYDRA_MAIN_MODULE"] = f"experiments.{name}"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, to be worded here
    failures: list[tuple[str, Exception]] = []

    @functools.wraps(run)
    def job(config: Any) -> Any:
        try:
            return run(config)
        except Exception as error:
            failures.append((_job_name(), error))

    try:
        _hydra_main(job)()
    except KeyboardInterrupt:
        print("interrupted; features that were finished are in the store", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        failures.append(("", error))
    if failures:
        sys.exit(max(_tell(job_name, error) for job_name, error in failures))


def launch_without_folder(run: Run, name: str) -> None:
    """As `launch`, for a command that writes nothing: what Hydra itself writes is thrown away.

    Args:
        run: as of `launch`.
        name: as of `launch`.
    """
    with tempfile.TemporaryDirectory(prefix="clipdissect-") as passing:
        sys.argv += [f"hydra.run.dir={passing}", f"hydra.sweep.dir={passing}"]
        launch(run, name)


def results_folder() -> Path:
    """The folder of the running job."""
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir)


def _tell(job_name: str, error: Exception) -> int:
    """Print an error as a user should see it; returns the exit code."""
    from experiments.wording import explain

    message = explain(error)
    if message is None:
        traceback.print_exception(error)
        print(
            f"{job_name}this is a fault in the program, not in what you asked for", file=sys.stderr
        )
        return 1
    print(f"{job_name}error: {message}", file=sys.stderr)
    return 2


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


def _job_name() -> str:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return ""
    return f"job {hydra.job.num} ({hydra.job.override_dirname}) "


def _without_folder() -> list[str]:
    """Overrides for a process that writes no results: Hydra makes a folder in any case."""
    folder = tempfile.mkdtemp(prefix="clipdissect-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return ["hydra.output_subdir=null", f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"]


def _set_up_logging(level: int) -> None:
    """Our own messages from `level`, those of the libraries from WARNING on, bare, to stderr."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for ours in ("clipdissect", "experiments"):
        logging.getLogger(ours).setLevel(level)


def _hydra_main(run: Run) -> Callable[[], None]:
    import hydra

    from experiments.schema import register

    register()
    wrapped: Callable[[], None] = hydra.main(
        version_base="1.3", config_path=str(conf_folder()), config_name="config"
    )(run)
    return wrapped
