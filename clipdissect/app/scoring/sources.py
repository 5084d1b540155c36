"""The labels to score: of a run, with the config that made them, or of a file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from clipdissect import method as methods
from clipdissect.app.build import parameters
from clipdissect.app.launch import identity
from clipdissect.errors import DissectError, MissingResource
from clipdissect.report.run import Run, load

OVERRIDES = ".hydra/overrides.yaml"
# What labels of other methods must share to be scored on the same activations.
SHARED = ("target", "probe", "sae", "capture", "paths", "profile")


@dataclass(frozen=True)
class Source:
    """Labels, and the config to make them anew; None if they can't be.

    `name` says what they are: the method, or the folder or file.
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
    shared = [override for override in own if key_of(override).partition(".")[0] in SHARED]
    sources = [_read(config.run, own), *(_read(entry, shared) for entry in config.against)]
    names = [_method_name(source) for source in sources]
    if len(set(names)) < len(names) or None in names:
        return sources
    return [replace(source, name=str(name)) for source, name in zip(sources, names, strict=True)]


def restricts_layers() -> bool:
    """Return whether this job's own options choose layers."""
    return any(key_of(override) == "target.layers" for override in identity()[1])


def _method_name(source: Source) -> str | None:
    """Return the method of a run's labels with its similarity function."""
    run = source.run.run
    parts = [(run.get(key) or {}).get("name") for key in ("method", "similarity")]
    return " ".join(filter(None, parts)) or None


def _read(entry: Any, own: Sequence[str]) -> Source:
    if isinstance(entry, DictConfig):
        return _of_method(parameters(entry))
    place = Path(str(entry)).expanduser()
    if not place.exists():
        raise MissingResource(
            "the labels to score",
            [str(place.absolute())],
            "name the folder of a run, or a table with the columns layer, unit and description",
        )
    run = load(place)
    if run.problem:
        raise DissectError(f"{entry} can't be scored: {run.problem}")
    return Source(str(entry), run, config_of(place, own))


def config_of(folder: Path, own: Sequence[str] = ()) -> DictConfig | None:
    """Compose a run's config anew, with further options on top; None if it has none.

    Raises:
        DissectError: it is a run of score, whose config names another run.
    """
    file = folder / OVERRIDES
    if not file.is_file():
        return None
    theirs: list[str] = list(OmegaConf.load(file))
    if any(key_of(override) == "run" for override in theirs):
        raise DissectError(f"{folder} is a run of score: name the run that its labels are of")
    return compose("config", overrides=merged(theirs, own))


def _of_method(options: Mapping[str, Any]) -> Source:
    """Return the labels that `{name: published, path: FILE, ...}` reads."""
    method = methods.build(**options)
    if method.needs:
        raise DissectError(
            f"{method.name} describes units itself; labels to score come from a run's folder or a "
            "file ({name: published, path: FILE})"
        )
    result = method.describe(methods.Job())
    path = Path(str(options.get("path", method.name)))
    return Source(str(path), Run(path, result.descriptions, run=result.run), None)


def merged(theirs: Sequence[str], own: Sequence[str]) -> list[str]:
    """Return a run's overrides with others on top; a group chosen anew loses its parameters."""
    groups = {key_of(o).split("@")[0] for o in own if "." not in key_of(o)}
    kept = [o for o in theirs if not _is_of(o, groups)]
    return [*kept, *own]


def _is_of(override: str, groups: Collection[str]) -> bool:
    return key_of(override).partition(".")[0] in groups


def key_of(override: str) -> str:
    """Return the key that an override sets."""
    return override.lstrip("+~").partition("=")[0]
