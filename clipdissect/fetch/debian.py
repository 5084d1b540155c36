"""Debian packages, fetched with apt and without root."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path

from clipdissect.fetch.download import Got, SourceFailed
from clipdissect.fetch.sources import Debian
from clipdissect.utils.files import sums

log = logging.getLogger(__name__)

TIMEOUT_S = 600


def download(way: Debian, work: Path) -> Got:
    """Download a package; apt checks its signature.

    Args:
        way: the package.
        work: folder for it.

    Raises:
        SourceFailed: no apt here, or it can't serve the package.
    """
    log.info("getting Debian's package %s with apt-get", way.name)
    work.mkdir(parents=True, exist_ok=True)
    for old in work.glob(f"{way.name}*.deb"):
        old.unlink()
    try:
        _run(["apt-get", "download", way.name], work)
    except SourceFailed:
        # A machine without package lists: make lists of our own, which needs no root.
        own = _own_lists(work)
        _run(["apt-get", *own, "update"], work)
        _run(["apt-get", *own, "download", way.name], work)
    package = next(work.glob(f"{way.name}*.deb"))
    return Got(package, f"apt: {package.name}", sums(package)["sha256"], True)


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
        raise SourceFailed(f"{command[0]}: {error}") from error
    if done.returncode:
        raise SourceFailed(f"{command[0]}: {said[0]}")
