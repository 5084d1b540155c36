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

from clipdissect.errors import DissectError
from clipdissect.tracking.base import Finished, Tracker
from clipdissect.tracking.wandb_content import artifact, config_of, values_of

log = logging.getLogger(__name__)

MODES = ("offline", "online", "disabled")
PATIENCE = 30  # seconds until an online run that can't be started goes on offline


def wandb(
    project: str = "clipdissect", entity: str | None = None, mode: str | None = None,
    tags: list[str] | None = None, run_id: str | None = None, units: int = 50, thumbnails: int = 5,
) -> Tracker:  # fmt: skip
    """Log a run to Weights & Biases; all that an offline run needs is kept in the run's folder.

    Logged are the config, versions and the machine, metrics, seconds per stage, a table of
    descriptions with pictures of the top images, the folder's figures, and its files as an
    artifact. It never asks for anything: without an API key a run is offline.

    Args:
        project: its name there.
        entity: the user or team there; by default the key's.
        mode: `offline`, `online` or `disabled`; by default `$WANDB_MODE`, else online where there
            is an API key.
        tags: of the run.
        run_id: go on with this run, or make it; in a multirun the job's number is added.
        units: of each layer in the table, from the first on, so that runs can be compared.
        thumbnails: top images a unit in the table; 0 reads no image.

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
        chosen = _mode(library, mode)
        if chosen == "disabled":
            return
        identity = run_id if run_id is None or run.number is None else f"{run_id}-{run.number}"
        options = {
            "project": project, "entity": entity, "name": run.name, "group": run.group,
            "job_type": run.job, "tags": tags or [], "id": identity, "dir": str(run.folder),
            "resume": "allow" if identity and chosen == "online" else None,
            "config": config_of(run),
        }  # fmt: skip
        with _staged_in(run.folder), _start(library, chosen, options) as logged:
            logged.log(values_of(library, run, units, thumbnails))
            logged.log_artifact(artifact(library, run, logged.id))
            place = f"wandb sync {Path(logged.dir).parent}" if logged.offline else logged.url
        log.info("tracking: %s", place)

    return track


def _mode(library: Any, asked: str | None) -> str:
    """The mode to use; says so where an online run was wanted and there is no key for it."""
    wanted = asked or os.environ.get("WANDB_MODE") or "online"
    if wanted != "online" or _has_key(library.setup().settings):
        return wanted
    log.info(
        "tracking: there is no API key of Weights & Biases, so the run is kept offline "
        "(wandb login, or $WANDB_API_KEY, changes that)"
    )
    return "offline"


def _has_key(settings: Any) -> bool:
    """Whether wandb would find an API key without asking: in its settings, or in netrc."""
    names = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    if settings.api_key or any(os.environ.get(name) for name in names):
        return True
    own = os.environ.get("NETRC")
    places = [Path(own)] if own else [Path.home() / name for name in (".netrc", "_netrc")]
    host = urlsplit(str(settings.base_url)).hostname or ""
    for place in places:
        try:
            if place.is_file() and netrc(str(place)).authenticators(host):
                return True
        except (NetrcParseError, OSError):
            continue
    return False


@contextmanager
def _staged_in(folder: Path) -> Iterator[None]:
    """Have wandb stage an artifact's files in the run's folder, not in the user's home."""
    name = "WANDB_DATA_DIR"
    before = os.environ.get(name)
    os.environ[name] = before or str(folder / "wandb")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _start(library: Any, mode: str, options: dict[str, Any]) -> Any:
    """A wandb run: a context that finishes it. Offline where an online one can't be started."""
    settings = library.Settings(silent=True, console="off", init_timeout=PATIENCE)
    try:
        return library.init(mode=mode, settings=settings, **options)
    except library.errors.Error as error:
        if mode != "online":
            raise
        reason = str(error).splitlines()[0]
        log.warning("tracking: no online run (%s), so it is kept offline", reason)
        return library.init(mode="offline", settings=settings, **options | {"resume": None})
