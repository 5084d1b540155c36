"""An earlier run with its network and images, built from the run's own config."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hydra import initialize_config_dir

from clipdissect import method as methods
from clipdissect.app.build import build_job
from clipdissect.app.help import conf_folder
from clipdissect.app.schema import register
from clipdissect.app.scoring.sources import OVERRIDES, config_of
from clipdissect.errors import DissectError
from clipdissect.explore.result import Result, load
from clipdissect.report.run import load as load_run

GROUPS = ("target", "probe")
NOTHING = methods.build("published", path="")  # a method that needs no part of a job


def result_of_run(folder: str | Path) -> Result:
    """Read a run, with the network and the images that its config names as its job.

    Raises:
        DissectError: the run isn't complete, has no config, or isn't one that describes units.
    """
    problem = load_run(folder).problem
    if problem:  # without a manifest the network can't be checked
        raise DissectError(f"{folder} can't be used: {problem}")
    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = config_of(Path(folder).expanduser())
    if config is None:
        raise DissectError(
            f"{folder} has no {OVERRIDES}, which names its network and images: name the folder of "
            "a run of the command line; in Python, clipdissect.dissect's result knows both"
        )
    return replace(load(folder), job=build_job(config, NOTHING, GROUPS))
