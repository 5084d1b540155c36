"""The tracker interface: a function of a run whose files are complete.

The files on disk remain the source of truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clipdissect.probe import Probe
from clipdissect.results.run_files import jsonable


@dataclass(frozen=True)
class Finished:
    """A run whose files are complete.

    Args:
        folder: has `run.json`, and tables and figures if the runner writes any.
        config: plain values.
        metrics: as in `metrics.json`, nested.
        job: the runner's name.
        overrides: command-line overrides of the config.
        group: shared by the runs of one multirun.
        number: of the run in its multirun.
        probe: source of the top images; None shows none.
    """

    folder: Path
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    job: str = "run"
    overrides: tuple[str, ...] = ()
    group: str | None = None
    number: int | None = None
    probe: Probe | None = None

    @property
    def name(self) -> str:
        """The run's name; a multirun's folders are only numbered, so theirs has the group."""
        return self.folder.name if self.group is None else f"{self.group}-{self.number}"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Contents of `run.json`; empty if it is missing."""
        path = self.folder / "run.json"
        facts: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return facts

    @property
    def values(self) -> dict[str, Any]:
        """Metrics, and seconds per stage, by `outer/inner` keys, without undefined ones."""
        nested = {**self.metrics, "seconds": self.facts.get("seconds", {})}
        return {key: value for key, value in flatten(jsonable(nested)) if value is not None}


Tracker = Callable[[Finished], None]


def none() -> Tracker:
    """Track nothing."""
    return lambda run: None


def flatten(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings and lists with `outer/inner` keys; lists by position."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}/")
        elif isinstance(value, (list, tuple)):
            yield from flatten(dict(enumerate(value)), f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value
