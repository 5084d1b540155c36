"""Trackers are functions: they take a run's folder, config and metrics once it is complete.

The files on disk stay the source of truth, so a tracker runs after they are written.
"""

from __future__ import annotations

import csv as csv_module
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from clipdissect.errors import DissectError
from clipdissect.files import write_text

Tracker = Callable[[Path, Mapping[str, Any], Mapping[str, Any]], None]

MODES = ("offline", "online", "disabled")


def none() -> Tracker:
    """Track nothing."""
    return lambda folder, config, metrics: None


def csv() -> Tracker:
    """Add one row a run, folder and flattened metrics, to `runs.csv` beside the run's folder.

    For runs one after another: of two that end at the same moment one may be lost.
    """
    return _add_row


def wandb(
    project: str = "clipdissect", mode: str = "offline", tags: list[str] | None = None
) -> Tracker:
    """Log config and metrics to Weights & Biases; offline runs are kept in the run's folder.

    Args:
        project: its name there.
        mode: `offline`, `online` or `disabled`.
        tags: tags of the run.

    Raises:
        DissectError: unknown mode.
    """
    if mode not in MODES:
        raise DissectError(f"tracking.mode is '{mode}'; it can be {', '.join(MODES)}")

    def track(folder: Path, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
        from importlib import import_module

        library: Any = import_module("wandb")
        run = library.init(project=project, mode=mode, tags=tags or [], dir=str(folder),
                           name=folder.name, config=dict(config))  # fmt: skip
        run.log(dict(flatten(metrics)))
        run.finish()

    return track


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as `outer/inner` keys."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _add_row(folder: Path, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    path = folder.parent / "runs.csv"
    rows: list[dict[str, Any]] = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as source:
            rows = list(csv_module.DictReader(source))
    rows.append({"run": str(folder), **dict(flatten(metrics))})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv_module.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
