"""Get an item: under a lock, from its sources in order, and into place in one step."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from zipfile import is_zipfile

from filelock import FileLock, Timeout

from clipdissect.errors import DissectError, MissingResource
from clipdissect.fetch import packages
from clipdissect.fetch.download import (
    DISK_FULL,
    DiskFull,
    Download,
    SourceFailed,
    digest_matches,
    download,
    sha256,
)
from clipdissect.fetch.sources import DebianPackage, ExpectedCount, File, Item, PipPackages, Way
from clipdissect.fetch.unpack import unpack
from clipdissect.fetch.user_sources import user_ways

log = logging.getLogger(__name__)

MAX_WRAPPING = 3  # folders that an archive may have around the item


@dataclass(frozen=True)
class Fetched:
    """The result of `get`; `aside` is the new path of an incomplete item in the way."""

    path: Path
    was_there: bool = False  # then nothing was downloaded
    files: tuple[Download, ...] = ()
    aside: Path | None = None


def get(
    item: Item, folder: Path | None = None, urls: Sequence[str] = (), force: bool = False
) -> Fetched:
    """Get an item unless it is there already; arguments and errors are those of `fetch`."""
    ways = user_ways(item, urls) if urls else item.ways
    if not force and not urls and folder is None and (path := item.find()):
        return Fetched(path, was_there=True)
    target = (folder or _writable(item.bases())) / item.place
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target):
            if item.is_complete(target) and not force:  # another process may have been faster
                return Fetched(target, was_there=True)
            return _from_any(item, ways, target, force)
    except (OSError, DiskFull) as error:
        is_full = isinstance(error, OSError) and error.errno in DISK_FULL
        reason = "no space is left" if is_full else error
        raise DissectError(
            f"{item.name} can't be written to {target.parent}: {reason}. Make room, or choose "
            f"another folder with --folder, and run the same command again"
        ) from error


def _from_any(item: Item, ways: Sequence[Way], target: Path, force: bool) -> Fetched:
    """Try the ways in order; complete downloads of a failed one stay for the next call."""
    work = target.with_name(f".{target.name}.fetch")
    reasons: list[str] = []
    for number, way in enumerate(ways):
        stage = work / "unpacked"
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        try:
            downloads = _obtain(way, work / str(number), stage)
            aside = _put(_verify(item, stage, downloads, work / str(number)), target, force)
        except DiskFull:
            raise
        except DissectError as error:
            reasons.extend(str(error).splitlines())
            continue
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)
        return Fetched(target, files=tuple(downloads), aside=aside)
    if not any(path.is_file() for path in work.rglob("*")):
        shutil.rmtree(work, ignore_errors=True)
    raise MissingResource(
        f"{item.name}: {item.description}", reasons or ["no address"], item.manual
    )


def _obtain(way: Way, work: Path, stage: Path) -> list[Download]:
    """Download everything of a way and lay it out in `stage`."""
    if isinstance(way, PipPackages):
        archive = packages.download_pip(way, work)
        unpack(archive.path, stage, skip=way.skip)
        return [archive]
    if isinstance(way, DebianPackage):
        archive = packages.download_debian(way, work)
        unpack(archive.path, stage)
        return [archive]
    downloads = [_download(file, work) for file in way]
    for file, downloaded in zip(way, downloads, strict=True):
        if not file.archive:
            path = stage / (file.to or file.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            downloaded.path.replace(path)
            continue
        try:
            unpack(downloaded.path, stage / file.to, file.take)
        except DissectError:
            downloaded.path.unlink()  # it would fail again
            raise
    return downloads


def _download(file: File, work: Path) -> Download:
    """Download a file, unless an interrupted call left it."""
    path = work / file.name
    is_local = any(url.startswith("file:") for url in file.urls)
    if path.is_file() and not is_local and (not file.digest or digest_matches(path, file.digest)):
        return Download(path, "an earlier run", sha256(path), file.digest is not None)
    return download(file.urls, path, file.digest, file.size)


def _verify(item: Item, stage: Path, downloads: Sequence[Download], work: Path) -> Path:
    """Return the unpacked item; if it is something else, remove the downloads."""
    try:
        path = _locate(item, stage)
        if not all(download.known for download in downloads):
            check(item, path)
        return path
    except SourceFailed:
        shutil.rmtree(work, ignore_errors=True)  # it would fail again
        raise


def _locate(item: Item, stage: Path) -> Path:
    """Return the item's path among the unpacked files, within enclosing folders."""
    if not item.required:
        files = [path for path in stage.iterdir() if path.is_file()]
        if len(files) == 1:
            return files[0]
        raise SourceFailed(f"the download has {len(files)} files, but {item.name} is one file")
    folders = [stage]
    for _ in range(MAX_WRAPPING + 1):
        for folder in folders:
            if item.is_complete(folder):
                return folder
        folders = [path for f in folders for path in sorted(f.iterdir()) if path.is_dir()]
    raise SourceFailed(f"the download lacks {', '.join(item.required)}")


def check(item: Item, path: Path) -> None:
    """Raise SourceFailed unless a copy has the known digests and expected counts."""
    for expected in item.counts:
        _check_count(item, path, expected)
    for inner, digest in _known_digests(item):
        file = path / inner
        if file.is_file() and not digest_matches(file, digest):
            raise SourceFailed(
                f"{inner or 'the download'} isn't the file of {item.name}: its digest "
                f"isn't {digest}"
            )
    if path.suffix == ".pth" and not any(_known_digests(item)) and not is_zipfile(path):
        raise SourceFailed(f"the download has no weights: {path.name} is no file of torch.save")
    for file in [path] if path.is_file() else path.glob("*.safetensors"):
        if file.suffix == ".safetensors":
            from clipdissect.models.checkpoints import safetensors_size  # imports torch

            if (size := safetensors_size(file)) is None or file.stat().st_size < size:
                raise SourceFailed(f"{file.name} is no safetensors file, or truncated")


def _check_count(item: Item, path: Path, expected: ExpectedCount) -> None:
    file = path / expected.path
    if "*" in expected.path:
        number = sum(1 for _ in path.glob(expected.path))
    else:
        lines = file.read_bytes().split(b"\n") if file.is_file() else []
        number = sum(1 for line in lines if line.strip())
    if not expected.least <= number <= expected.most:
        wanted = f"{expected.least:,}"
        if expected.most > expected.least:
            wanted += f" to {expected.most:,}"
        raise SourceFailed(
            f"the download has {number:,} {expected.what}, but {item.name} has {wanted}"
        )


def _known_digests(item: Item) -> Iterator[tuple[str, str]]:
    """Yield inner paths and digests; for a single file only if it has one version."""
    yield from item.digests
    for way in item.ways:
        for file in way if isinstance(way, tuple) else ():
            if not file.archive and file.digest and (item.required or not item.counts):
                yield (file.to or file.name) if item.required else "", file.digest


def _put(source: Path, target: Path, force: bool) -> Path | None:
    """Move into place; an old copy is replaced if forced, else renamed to the returned path."""
    aside = None
    if target.exists():
        names = (target.with_name(f"{target.name}.old{n}") for n in count(1))
        aside = next(name for name in names if not name.exists())
        target.replace(aside)
    try:
        source.replace(target)
    except OSError:
        if aside:
            aside.replace(target)
        raise
    if aside and force:
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
        return None
    return aside


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Hold the item's lock, so that two processes don't download it twice."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process is fetching %s; waiting for it", target.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _writable(bases: Sequence[Path]) -> Path:
    """Return the first folder that can be written or created."""
    for base in bases:
        existing = next(p for p in (base, *base.absolute().parents) if p.exists())
        if existing.is_dir() and os.access(existing, os.W_OK):
            return base
    raise DissectError(
        f"none of {', '.join(map(str, bases))} can be written: choose a folder with --folder"
    )
