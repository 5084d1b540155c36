"""The cut-out photographs and drawings of Tux Paint, from Debian's package."""

from __future__ import annotations

import logging
from pathlib import Path

from clipdissect.errors import MissingResource
from clipdissect.fetch import fetch as get
from clipdissect.probe.base import Probe
from clipdissect.probe.folder import image_files, of_files
from clipdissect.probe.options import ProbeOptions
from clipdissect.probe.photos import photos
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
    """About 550 cut-outs of animals, food, vehicles, tools and the like, on white.

    Taken from `/usr/share` where the package is installed, else from the user cache, else
    fetched once with `apt-get download` (no root needed) and unpacked into the user cache.

    Args:
        fallback: use the probe `photos` where the package can't be had, and note it.
        limit, sample, seed, identity, on_error: see `ProbeOptions`.

    Raises:
        MissingResource: the package can't be had, and `fallback` is false.
        DissectError: a value that isn't allowed.
    """
    choices = ProbeOptions(limit, sample, seed, identity, on_error=on_error)
    try:
        root = find() or fetch()
    except MissingResource as missing:
        if not fallback:
            raise
        root, why = None, str(missing)
    if root is None:
        note = f"the stamps could not be had, so the probe is `photos`, a weaker one ({why})"
        log.warning("%s", note)
        return photos(limit, sample, seed, on_error).noting(note)
    every, notes = image_files(root, on_error)
    files = [p for p in every
             if p.suffix == ".png" and "symbols" not in p.relative_to(root).parts]  # fmt: skip
    return of_files("stamps", root, files, choices, None, notes)


def find() -> Path | None:
    """The stamps' folder where it is installed or already fetched, else None."""
    for root in (Path("/") / INSIDE, cached()):
        if (root / "animals").is_dir():
            return root
    return None


def cached() -> Path:
    """Where `fetch` puts the stamps."""
    return cache_dir() / PACKAGE / INSIDE


def fetch() -> Path:
    """Get Debian's package and unpack it into the user cache; `clipdissect fetch stamps` too.

    Raises:
        MissingResource: no apt here, or it can't serve the package.
        DissectError: the user cache can't be written.
    """
    log.info("fetching %s (161 MB, once)", PACKAGE)
    return get("stamps", folder=cache_dir()).path / INSIDE
