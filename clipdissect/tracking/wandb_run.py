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
    """Log a run to Weights & Biases; an offline run is stored entirely in the run's folder.

    Logs the config, versions and the machine, metrics, seconds per stage, a table of descriptions
    with top images, the folder's figures, and its files as an artifact. Never prompts: without an
    API key a run is offline.

    Args:
        project: the W&B project.
        entity: the W&B user or team; by default the API key's.
        mode: `offline`, `online` or `disabled`; by default `$WANDB_MODE`, else online if there is
            an API key.
        tags: of the run.
        run_id: resume or create this run; a multirun appends the job's number.
        units: of each layer in the table, the first ones, so that runs are comparable.
        thumbnails: top images per unit in the table; 0 reads no image.

    Raises:
        DissectError: unknown mode, or a negative number.
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
    """Return the mode to use: offline if an online run is requested and there is no API key."""
    mode = requested or os.environ.get("WANDB_MODE") or "online"
    if mode != "online" or _has_key(library.setup().settings):
        return mode
    log.info(
        "tracking: there is no API key of Weights & Biases, so the run is kept offline "
        "(wandb login, or $WANDB_API_KEY, changes that)"
    )
    return "offline"


def _has_key(settings: Any) -> bool:
    """Return whether wandb would get an API key without a prompt: from its settings, or netrc."""
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
    """Return a wandb run, offline if an online one can't be started; a context that finishes it."""
    settings = library.Settings(silent=True, console="off", init_timeout=PATIENCE)
    try:
        return library.init(mode=mode, settings=settings, **options)
    except library.errors.Error as error:
        if mode != "online":
            raise
        reason = str(error).splitlines()[0]
        log.warning("tracking: no online run (%s), so it is kept offline", reason)
        return library.init(mode="offline", settings=settings, **options | {"resume": None})


def _config(run: Finished) -> dict[str, Any]:
    """Return the run's config; `run` has what else its numbers depend on."""
    facts = {name: run.facts[name] for name in FACTS if name in run.facts}
    return {**run.config, "run": {**facts, "overrides": list(run.overrides)}}


def _values(library: Any, run: Finished, units: int, thumbnails: int) -> dict[str, Any]:
    """Return metrics, seconds, figures and the table of descriptions."""
    values: dict[str, Any] = dict(run.values)
    for path in sorted(run.folder.iterdir()):
        if path.suffix in PICTURES:
            values[f"figures/{path.stem}"] = library.Image(str(path))
    if (run.folder / "descriptions.csv").is_file():
        values["descriptions"] = _table(library, run, units, thumbnails)
    return values


def _artifact(library: Any, run: Finished, identity: str) -> Any:
    """Return the folder's files, without wandb's own."""
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
