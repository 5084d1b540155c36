"""The tracker `wandb`: Weights & Biases."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd

from clipdissect.errors import DissectError
from clipdissect.probe.thumbnails import Thumbnails
from clipdissect.tracking.base import Finished, Tracker

log = logging.getLogger(__name__)

MODES = ("offline", "online", "disabled")
PATIENCE = 30  # seconds until an online run that can't be started continues offline
PICTURES = (".jpg", ".png")
FACTS = ("date", "versions", "machine", "git", "digests", "notes")


def wandb(
    project: str = "clipdissect",
    entity: str | None = None,
    mode: str | None = None,
    tags: list[str] | None = None,
    run_id: str | None = None,
    units: int = 50,
    thumbnails: int = 5,
) -> Tracker:
    """Log a run to Weights & Biases; offline runs are stored in the run's folder.

    Never prompts: a run without an API key is offline.

    Args:
        project: the W&B project.
        entity: the W&B user or team; by default the API key's.
        mode: `offline`, `online` or `disabled`; default `$WANDB_MODE`, else online with a key.
        tags: of the run.
        run_id: resume or create this run; a multirun appends the job's number.
        units: rows per layer in the table of descriptions, the first ones.
        thumbnails: top images per unit in the table; 0 reads no image.
    """
    if mode is not None and mode not in MODES:
        raise DissectError(f"tracking.mode is '{mode}'; it can be {', '.join(MODES)}")
    for name, number in (("units", units), ("thumbnails", thumbnails)):
        if number < 0:
            raise DissectError(f"tracking.{name} must be at least 0; got {number}")

    def track(run: Finished) -> None:
        library: Any = import_module("wandb")
        actual_mode = _mode(library, mode)
        if actual_mode == "disabled":
            return
        identity = run_id if run_id is None or run.number is None else f"{run_id}-{run.number}"
        options = {
            "project": project,
            "entity": entity,
            "name": run.name,
            "group": run.group,
            "job_type": run.job,
            "tags": tags or [],
            "id": identity,
            "dir": str(run.folder),
            "resume": "allow" if identity and actual_mode == "online" else None,
            "config": _config(run),
        }
        with _staged_in(run.folder), _start(library, actual_mode, options) as logged:
            logged.log(_values(library, run, units, thumbnails))
            logged.log_artifact(_artifact(library, run, logged.id))
            place = f"wandb sync {Path(logged.dir).parent}" if logged.offline else logged.url
        log.info("tracking: %s", place)

    return track


def _mode(library: Any, requested: str | None) -> str:
    mode = requested or os.environ.get("WANDB_MODE") or "online"
    if mode != "online" or _has_key(library.setup().settings):
        return mode
    log.info(
        "tracking: there is no API key of Weights & Biases, so the run is stored offline "
        "(wandb login, or $WANDB_API_KEY, changes that)"
    )
    return "offline"


def _has_key(settings: Any) -> bool:
    """Return whether wandb would get an API key, from its settings or netrc, without a prompt."""
    names = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    if settings.api_key or any(os.environ.get(name) for name in names):
        return True
    netrc_path = os.environ.get("NETRC")
    paths = [Path(netrc_path)] if netrc_path else [Path.home() / n for n in (".netrc", "_netrc")]
    host = urlsplit(str(settings.base_url)).hostname or ""
    for path in paths:
        try:
            if path.is_file() and netrc(str(path)).authenticators(host):
                return True
        except (NetrcParseError, OSError):
            continue
    return False


@contextmanager
def _staged_in(folder: Path) -> Iterator[None]:
    """Make wandb stage an artifact's files in the run's folder, not in the user's home."""
    name = "WANDB_DATA_DIR"
    before = os.environ.get(name)
    os.environ[name] = before or str(folder / "wandb")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _start(library: Any, mode: str, options: dict[str, Any]) -> Any:
    """Start a wandb run, a context that finishes it; offline if an online run fails to start."""
    settings = library.Settings(silent=True, console="off", init_timeout=PATIENCE)
    try:
        return library.init(mode=mode, settings=settings, **options)
    except library.errors.Error as error:
        if mode != "online":
            raise
        reason = str(error).splitlines()[0]
        log.warning("tracking: no online run (%s), so it is stored offline", reason)
        return library.init(mode="offline", settings=settings, **options | {"resume": None})


def _config(run: Finished) -> dict[str, Any]:
    facts = {name: run.facts[name] for name in FACTS if name in run.facts}
    return {**run.config, "run": {**facts, "overrides": list(run.overrides)}}


def _values(library: Any, run: Finished, units: int, thumbnails: int) -> dict[str, Any]:
    values: dict[str, Any] = dict(run.values)
    for path in sorted(run.folder.iterdir()):
        if path.suffix in PICTURES:
            values[f"figures/{path.stem}"] = library.Image(str(path))
    if (run.folder / "descriptions.csv").is_file():
        values["descriptions"] = _table(library, run, units, thumbnails)
    return values


def _artifact(library: Any, run: Finished, identity: str) -> Any:
    artifact = library.Artifact(f"{run.job}-{identity}", type="run")
    for path in sorted(run.folder.rglob("*")):
        name = path.relative_to(run.folder)
        if path.is_file() and name.parts[0] != "wandb":
            artifact.add_file(str(path), name=name.as_posix(), skip_cache=True)
    return artifact


def _table(library: Any, run: Finished, units: int, thumbnails: int) -> Any:
    rows = _read(run.folder / "descriptions.csv").groupby("layer", sort=False).head(units)
    columns = [name for name in rows.columns if not name.startswith("similarity_")]
    data = [
        [None if isinstance(value, float) and value != value else value for value in row]
        for row in rows[columns].itertuples(index=False)
    ]
    if run.probe is not None and thumbnails and (run.folder / "top_images.csv").is_file():
        columns.append("top images")
        images = _read(run.folder / "top_images.csv")
        images = images[images["rank"] <= thumbnails]
        names = images.groupby(["layer", "unit"])["image"].agg(list).to_dict()
        pictures = Thumbnails(run.probe)
        for values, key in zip(data, zip(rows["layer"], rows["unit"], strict=True), strict=True):
            values.append(library.Image(pictures.strip(names.get(key, [])), file_type="jpg"))
    return library.Table(columns=columns, data=data)


def _read(path: Path) -> pd.DataFrame:
    # Words such as "nan" are concepts, not missing values; numbers of dead units are missing.
    table = pd.read_csv(path, keep_default_na=False)
    for name in map(str, table.columns):
        if name.startswith("similarity") or name in ("margin", "null_similarity"):
            table[name] = pd.to_numeric(table[name], errors="coerce")
    return table
