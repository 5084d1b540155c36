"""What trackers are: functions that take a run once its files are complete.

The files on disk stay the source of truth.
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
        folder: with `run.json`, and tables and figures where the runner makes some.
        config: of the run, as plain values.
        metrics: as in `metrics.json`, nested.
        job: the runner's name.
        overrides: what the run was called with.
        group: what runs of one multirun have in common.
        number: of the run in its multirun.
        probe: where the top images are; None shows none.
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
        """What to call the run where others are: a multirun's folders have numbers for names."""
        return self.folder.name if self.group is None else f"{self.group}-{self.number}"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Of `run.json`: versions, digests, seconds; empty where there is none."""
        path = self.folder / "run.json"
        found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return found

    @property
    def values(self) -> dict[str, Any]:
        """Metrics, and seconds per stage, as `outer/inner` keys; undefined ones are left out."""
        nested = {**self.metrics, "seconds": self.facts.get("seconds", {})}
        return {key: value for key, value in flatten(jsonable(nested)) if value is not None}


Tracker = Callable[[Finished], None]


def none() -> Tracker:
    """Track nothing."""
    return lambda run: None


def flatten(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Return nested mappings and lists as `outer/inner` keys, one value each; lists by position."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}/")
        elif isinstance(value, (list, tuple)):
            yield from flatten(dict(enumerate(value)), f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value
