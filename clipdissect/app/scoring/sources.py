"""The labels to score: of a run, with the config that made them, or of a file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import OmegaConf

from clipdissect.app.launch import identity
from clipdissect.errors import DissectError, MissingResource
from clipdissect.report.run import Run, load

OVERRIDES = ".hydra/overrides.yaml"
# What labels of other methods must share to be scored on the same activations.
SHARED = ("target", "probe", "sae", "capture", "paths", "profile")


@dataclass(frozen=True)
class Source:
    """Labels, and the config to make them anew; None if they can't be.

    `name` is the folder or file as given.
    """

    name: str
    run: Run
    config: Any | None

    @property
    def digests(self) -> dict[str, str]:
        found: dict[str, str] = self.run.run.get("digests", {})
        return found


def read_sources(config: Any) -> list[Source]:
    """Return the labels of `run`, then those of `against`."""
    if config.run is None:
        raise DissectError(
            "score needs labels: run=FOLDER, the folder of a run of dissect or final_layer, or "
            "run=FILE, a table with the columns layer, unit and description"
        )
    _, own = identity()
    first = _read(str(config.run), own)
    shared = [override for override in own if _key(override).partition(".")[0] in SHARED]
    return [first, *(_read(str(path), shared) for path in config.against)]


def _read(path: str, own: Sequence[str]) -> Source:
    place = Path(path).expanduser()
    if not place.exists():
        raise MissingResource(
            "the labels to score",
            [str(place.absolute())],
            "name the folder of a run, or a table with the columns layer, unit and description",
        )
    run = load(place)
    if run.problem:
        raise DissectError(f"{path} can't be scored: {run.problem}")
    file = place / OVERRIDES
    if place.is_file() or not file.is_file():
        return Source(path, run, None)
    theirs: list[str] = list(OmegaConf.load(file))  # type: ignore[arg-type]
    return Source(path, run, compose("config", overrides=merged(theirs, own)))


def merged(theirs: Sequence[str], own: Sequence[str]) -> list[str]:
    """Return a run's overrides with others on top; a group chosen anew loses its parameters."""
    groups = {_key(o).split("@")[0] for o in own if "." not in _key(o)}
    kept = [o for o in theirs if not _is_of(o, groups)]
    return [*kept, *own]


def _is_of(override: str, groups: Collection[str]) -> bool:
    return _key(override).partition(".")[0] in groups


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]
