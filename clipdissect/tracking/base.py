"""The tracker interface: a function of a run whose files are complete."""

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
    """A run whose files are complete; `folder` has `run.json`, tables and figures.

    `metrics` is nested as in `metrics.json`; `job` is the runner's name; `group` and `number`
    identify a run of a multirun; `probe` is the source of top images, None to show none.
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
        """The run's name, unique also among the numbered folders of multiruns."""
        return self.folder.name if self.group is None else f"{self.group}-{self.number}"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Contents of `run.json`; empty if it is missing."""
        path = self.folder / "run.json"
        facts: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return facts

    @property
    def values(self) -> dict[str, Any]:
        """Metrics, and seconds per stage, by `outer/inner` keys, without undefined values."""
        nested = {**self.metrics, "seconds": self.facts.get("seconds", {})}
        return {key: value for key, value in flatten(jsonable(nested)) if value is not None}


Tracker = Callable[[Finished], None]


def none() -> Tracker:
    """Track nothing."""
    return lambda run: None


def flatten(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield values of nested mappings and lists, keyed `outer/inner`; lists by position."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}/")
        elif isinstance(value, (list, tuple)):
            yield from flatten(dict(enumerate(value)), f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value
