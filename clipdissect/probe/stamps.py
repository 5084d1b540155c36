"""The cut-out photographs and drawings of Tux Paint, from Debian's package."""

from __future__ import annotations

import logging
from pathlib import Path

from clipdissect.errors import MissingResource
from clipdissect.fetch import fetch as fetch_item
from clipdissect.probe.base import Probe
from clipdissect.probe.folder import of_files
from clipdissect.probe.image_files import find_image_files
from clipdissect.probe.options import ProbeOptions
from clipdissect.probe.photos import crops_of_photos
from clipdissect.utils.paths import cache_dir

log = logging.getLogger(__name__)

PACKAGE = "tuxpaint-stamps-default"
INSIDE = Path("usr/share/tuxpaint/stamps")


def stamps(
    fallback: bool = True,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    identity: str = "stat",
    on_error: str = "skip",
) -> Probe:
    """Use about 550 cut-outs of animals, food, vehicles, tools and the like, on white.

    Args:
        fallback: use `photos`, with a note, if the package can't be found or fetched.
        limit, sample, seed, identity, on_error: see `ProbeOptions`.
    """
    options = ProbeOptions(limit, sample, seed, identity, on_error=on_error)
    try:
        root = find() or fetch()
    except MissingResource as missing:
        if not fallback:
            raise
        note = f"the stamps are not available, so the probe is `photos`, a weaker one ({missing})"
        log.warning("%s", note)
        return crops_of_photos(options, (note,))
    images = find_image_files(root, on_error)
    files = [
        file
        for file in images.files
        if file.suffix == ".png" and "symbols" not in file.relative_to(root).parts
    ]
    return of_files("stamps", root, files, options, notes=images.notes)


def find() -> Path | None:
    for root in (Path("/") / INSIDE, cached()):
        if (root / "animals").is_dir():
            return root
    return None


def cached() -> Path:
    return cache_dir() / PACKAGE / INSIDE


def fetch() -> Path:
    log.info("fetching %s (161 MB, once)", PACKAGE)
    return fetch_item("stamps", folder=cache_dir()).path / INSIDE
