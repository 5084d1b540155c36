"""What the tracker `wandb` logs of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from clipdissect.probe.thumbnails import Thumbnails
from clipdissect.tracking.base import Finished

PICTURES = (".jpg", ".png")
FACTS = ("date", "versions", "machine", "git", "digests", "notes")


def config_of(run: Finished) -> dict[str, Any]:
    """The run's config; under `run` what its numbers depend on besides."""
    facts = {name: run.facts[name] for name in FACTS if name in run.facts}
    return {**run.config, "run": {**facts, "overrides": list(run.overrides)}}


def values_of(library: Any, run: Finished, units: int, thumbnails: int) -> dict[str, Any]:
    """Metrics, seconds, figures and the table of descriptions.

    Args:
        library: wandb.
        run: complete.
        units: of each layer in the table.
        thumbnails: top images a unit.
    """
    values: dict[str, Any] = dict(run.values)
    for path in sorted(run.folder.iterdir()):
        if path.suffix in PICTURES:
            values[f"figures/{path.stem}"] = library.Image(str(path))
    if (run.folder / "descriptions.csv").is_file():
        values["descriptions"] = _table(library, run, units, thumbnails)
    return values


def artifact(library: Any, run: Finished, identity: str) -> Any:
    """The folder's files, without what wandb itself keeps there."""
    made = library.Artifact(f"{run.job}-{identity}", type="run")
    for path in sorted(run.folder.rglob("*")):
        name = path.relative_to(run.folder)
        if path.is_file() and name.parts[0] != "wandb":
            made.add_file(str(path), name=name.as_posix(), skip_cache=True)
    return made


def _table(library: Any, run: Finished, units: int, thumbnails: int) -> Any:
    rows = _read(run.folder / "descriptions.csv").groupby("layer", sort=False).head(units)
    columns = [name for name in rows.columns if not name.startswith("similarity_")]
    data = [[_plain(value) for value in row] for row in rows[columns].itertuples(index=False)]
    if run.probe is not None and thumbnails and (run.folder / "top_images.csv").is_file():
        columns = [*columns, "top images"]
        strips = _strips(run, rows, thumbnails)
        data = [
            [*row, library.Image(strip, file_type="jpg")]
            for row, strip in zip(data, strips, strict=True)
        ]
    return library.Table(columns=columns, data=data)


def _strips(run: Finished, rows: pd.DataFrame, thumbnails: int) -> list[Any]:
    """Pictures of each row's top images."""
    images = _read(run.folder / "top_images.csv")
    images = images[images["rank"] <= thumbnails]
    names = images.groupby(["layer", "unit"])["image"].agg(list).to_dict()
    assert run.probe is not None
    pictures = Thumbnails(run.probe)
    keys = zip(rows["layer"], rows["unit"], strict=True)
    return [pictures.strip(names.get(key, [])) for key in keys]


def _read(path: Path) -> pd.DataFrame:
    # Words such as "nan" are concepts, not missing values; numbers of dead units are missing.
    table = pd.read_csv(path, keep_default_na=False)
    for name in map(str, table.columns):
        if name.startswith("similarity") or name in ("margin", "null_similarity"):
            table[name] = pd.to_numeric(table[name], errors="coerce")
    return table


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and value != value else value
