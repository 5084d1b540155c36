"""The jobs of a multirun, by the files that Hydra writes into their folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

OVERRIDES = Path(".hydra") / "overrides.yaml"
MULTIRUN = "multirun.yaml"
DEPTH = 3  # folders between a multirun's and its job's: hydra.sweep.subdir may nest them


def job_folders(folder: Path) -> list[Path]:
    """Return the folders of a multirun's jobs by number, and named ones last; [] if it is none."""
    found = {
        path.parent.parent
        for depth in range(1, DEPTH + 1)
        for path in folder.glob(f"{'*/' * depth}{OVERRIDES}")
    }
    return sorted(found, key=lambda job: _order(job.relative_to(folder)))


def _order(job: Path) -> list[tuple[bool, int, str]]:
    return [
        (not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in job.parts
    ]


def overrides(job: Path) -> list[str]:
    """Return a job's overrides as written on a command line; [] if its file is unreadable."""
    return _texts(_read(job / OVERRIDES))


def own_overrides(job: Path) -> list[str]:
    """Return the overrides that the multirun's command line doesn't have; [] without a multirun."""
    paths = (parent / MULTIRUN for parent in list(job.absolute().parents)[:DEPTH])
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return []
    config: Any = _read(path)
    for key in ("hydra", "overrides", "task"):
        config = config.get(key) if isinstance(config, dict) else None
    return not_given(overrides(job), _texts(config))


def not_given(overrides: Iterable[str], given: Iterable[str]) -> list[str]:
    """Return a job's overrides without those that are given to all jobs on the command line."""
    known = {_plain(override) for override in given}
    return [override for override in overrides if _plain(override) not in known]


def _plain(override: str) -> str:
    # Hydra writes a job's own in another form: true as True, lists without spaces.
    return override.replace(" ", "").casefold()


def _texts(values: Any) -> list[str]:
    return [str(value) for value in values] if isinstance(values, list) else []


def _read(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return None
