"""The cut-out photographs and drawings of Tux Paint, from Debian's package."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from clipdissect.errors import MissingResource
from clipdissect.paths import cache_dir
from clipdissect.probe.base import Probe
from clipdissect.probe.choices import Choices
from clipdissect.probe.folder import of_files
from clipdissect.probe.photos import photos

log = logging.getLogger(__name__)

PACKAGE = "tuxpaint-stamps-default"
INSIDE = Path("usr/share/tuxpaint/stamps")
TIMEOUT_S = 600


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
        limit, sample, seed, identity, on_error: see `Choices`.

    Raises:
        MissingResource: the package can't be had, and `fallback` is false.
        DissectError: a value that isn't allowed.
    """
    choices = Choices(limit, sample, seed, identity, on_error=on_error)
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
    files = [p for p in root.rglob("*.png") if "symbols" not in p.relative_to(root).parts]
    return of_files("stamps", root, files, choices)


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
    """Download Debian's package and unpack it into the user cache.

    Raises:
        MissingResource: no apt here, or it can't serve the package.
    """
    target = cache_dir() / PACKAGE
    target.parent.mkdir(parents=True, exist_ok=True)
    log.info("fetching %s (161 MB, once)", PACKAGE)
    with tempfile.TemporaryDirectory(prefix=f".{PACKAGE}.", dir=target.parent) as temporary:
        work = Path(temporary)
        package = _download(work)
        _run(["dpkg-deb", "-x", str(package), str(work / "unpacked")], work)
        if find() is None:  # another process may have been faster
            shutil.rmtree(target, ignore_errors=True)  # an older, incomplete one
            (work / "unpacked").replace(target)
    return cached()


def _download(work: Path) -> Path:
    try:
        _run(["apt-get", "download", PACKAGE], work)
    except MissingResource:
        # A machine without package lists: make lists of our own, which needs no root.
        own = _own_lists(work)
        _run(["apt-get", *own, "update"], work)
        _run(["apt-get", *own, "download", PACKAGE], work)
    return next(work.glob(f"{PACKAGE}*.deb"))


def _own_lists(work: Path) -> list[str]:
    for folder in ("lists/partial", "cache/archives/partial"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    return ["-o", f"Dir::State::lists={work}/lists", "-o", f"Dir::Cache={work}/cache"]


def _run(command: list[str], work: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
    except (OSError, subprocess.TimeoutExpired) as error:
        said, done = [str(error)], None
    if done is None or done.returncode:
        raise MissingResource(
            f"Debian's package {PACKAGE} ({command[0]}: {said[0]})",
            [str(Path("/") / INSIDE), str(cached())],
            f"install {PACKAGE}, or use probe=photos or probe=folder",
        )
