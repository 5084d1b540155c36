"""The entries of a leaderboard: methods, each by the options that `dissect` would take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from hydra import compose

from clipdissect import method as methods
from clipdissect.app.build import build_group, parameters
from clipdissect.app.launch import identity
from clipdissect.app.scoring.labels import make_anew
from clipdissect.app.scoring.sources import SHARED, Source, key_of, merged
from clipdissect.app.user_errors import explain
from clipdissect.errors import DissectError
from clipdissect.method import Job
from clipdissect.probe import Probe
from clipdissect.report.run import Run
from clipdissect.scores.scoring import Labels
from clipdissect.utils.type_checks import shortened

GROUP = "leaderboard"
NAME = re.compile(r"\w[\w .,=+-]*")  # of an entry
PLAIN = re.compile(r"[A-Za-z_][\w./-]*")  # texts that need no quotes


@dataclass(frozen=True)
class Described:
    """An entry's labels, what its method takes, and its seconds with stored features."""

    labels: Labels
    requires: tuple[str, ...]
    seconds: float


def read_entries(config: Any) -> tuple[list[Source], dict[str, str]]:
    """Return the entries that compose, and by name why others can't run.

    Raises:
        DissectError: no entry, or one that changes what all must share.
    """
    own = [o for o in identity()[1] if key_of(o).partition(".")[0] != GROUP]
    found, missing = [], {}
    for name, options in parameters(config.leaderboard)["entries"].items():
        overrides = _overrides(str(name), options)
        try:
            composed = compose("config", overrides=merged(own, overrides))
            build_group(methods.build, composed.method)
        except Exception as error:
            missing[str(name)] = _reason(error)
            continue
        table: pd.DataFrame = pd.DataFrame(columns=["layer", "unit", "description"])
        found.append(Source(str(name), Run(Path(str(name)), table), composed))
    if not found:
        raise DissectError(
            "no entry can run: leaderboard.entries maps names to options of dissect, such as "
            "+leaderboard.entries={lp: {similarity: lp}}"
            + "".join(f"\n- {name}: {why}" for name, why in missing.items())
        )
    return found, missing


def _overrides(name: str, options: Any) -> list[str]:
    """Return an entry's options as they stand on a command line; raise a DissectError."""
    if not NAME.fullmatch(name):
        raise DissectError(
            f"leaderboard.entries: '{name}' is a file's name, too: use letters, digits, blanks, "
            "and , = _ + - ."
        )
    if not isinstance(options, dict):
        raise DissectError(
            f"leaderboard.entries.{name} is {shortened(options)}; it must be a mapping of options "
            "of dissect, such as {similarity: lp}"
        )
    for key, value in options.items():
        if key.partition(".")[0] in SHARED:
            raise DissectError(
                f"leaderboard.entries.{name} sets {key}={value}, but all entries share target, "
                "probe, settings and folders: set it for the whole leaderboard"
            )
    return [f"{key}={_written(value)}" for key, value in options.items()]


def _written(value: Any) -> str:
    """Return a value in Hydra's grammar."""
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_written(of)}" for key, of in value.items()) + "}"
    if isinstance(value, str) and not PLAIN.fullmatch(value):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if value is None or isinstance(value, bool):  # 1 == True as a key of a dict
        return "null" if value is None else str(value).lower()
    return str(value)


def describe_all(
    sources: Sequence[Source], job: Job, first: Probe
) -> tuple[list[Described], dict[str, str]]:
    """Describe the job's layers by each entry's method, on a part of the probe's images.

    An entry that lacks an input, such as masks, is left out, with the reason.
    """
    found, missing = [], {}
    for source in sources:
        print(f"{source.name} ...", flush=True)
        try:
            found.append(_describe(source, job, first))
        except DissectError as error:
            missing[source.name] = _reason(error)
    if not found:
        raise DissectError(
            "no entry could run:" + "".join(f"\n- {name}: {why}" for name, why in missing.items())
        )
    return found, missing


def _describe(source: Source, job: Job, first: Probe) -> Described:
    assert source.config is not None
    method: methods.Method = build_group(methods.build, source.config.method)
    labels, run = _made(source, job, first)
    if run.get("computed"):  # again, to time the method and not the networks
        labels, run = _made(source, job, first)
    seconds = sum(value for stage, value in run["seconds"].items() if stage != "load")
    return Described(labels, method.requires, seconds)


def _made(source: Source, job: Job, first: Probe) -> tuple[Labels, dict[str, Any]]:
    labels = make_anew(source, job, first)
    assert labels.result is not None  # of labels that are made anew
    return labels, labels.result.run


def _reason(error: Exception) -> str:
    message = explain(error)
    if message is None:
        raise error
    return " ".join(message.split())
