"""Getting an item: under a lock, from its sources in order, and into place in one step."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from clipdissect.errors import DissectError, MissingResource
from clipdissect.fetch import debian, pypi
from clipdissect.fetch.check import check
from clipdissect.fetch.download import FULL, DiskFull, Got, SourceFailed, download
from clipdissect.fetch.own import own_ways
from clipdissect.fetch.sources import Debian, File, Item, Packages, Way
from clipdissect.fetch.unpack import unpack
from clipdissect.utils.files import matches, sums

log = logging.getLogger(__name__)

AROUND = 3  # folders that an archive may have around the item


@dataclass(frozen=True)
class Fetched:
    """What became of a request.

    Args:
        path: where the item is.
        was_there: whether it was there already; nothing was downloaded then.
        files: what was downloaded.
        aside: where an incomplete item that was in the way is now, if there was one.
    """

    path: Path
    was_there: bool = False
    files: tuple[Got, ...] = ()
    aside: Path | None = None


def get(
    item: Item,
    folder: Path | None = None,
    own: Sequence[str] = (),
    force: bool = False,
) -> Fetched:
    """Get an item unless it is there already.

    Args:
        item: what.
        folder: put it below this folder instead of where the library looks.
        own: the user's own files (`file://`) or addresses of them, instead of the known sources.
        force: get it anew and replace what is there.

    Raises:
        MissingResource: no source gives it; says what to do by hand.
        DissectError: the disk is full, or the folder can't be written.
    """
    ways = own_ways(item, own) if own else item.ways
    if not force and not own and folder is None and (there := item.find()):
        return Fetched(there, was_there=True)
    target = (folder or _writable(item.bases())) / item.place
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            if item.is_complete(target) and not force:  # another process may have been faster
                return Fetched(target, was_there=True)
            return _from_any(item, ways, target, force)
    except OSError as error:
        if error.errno in FULL:
            error = OSError(error.errno, "no space is left", error.filename)
        raise DissectError(_of_the_disk(item, target, error)) from error
    except DiskFull as error:
        raise DissectError(_of_the_disk(item, target, error)) from error


def _from_any(item: Item, ways: Sequence[Way], target: Path, force: bool) -> Fetched:
    """Try the ways in order; what was downloaded of a failed one stays for the next call."""
    work = target.with_name(f".{target.name}.fetch")
    reasons: list[str] = []
    for number, way in enumerate(ways):
        stage = work / "unpacked"
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        try:
            got = _obtain(way, work / str(number), stage)
            aside = _put(_checked(item, stage, got, work / str(number)), target, force)
        except DiskFull:
            raise
        except DissectError as error:
            reasons.extend(str(error).splitlines())
            continue
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)
        return Fetched(target, files=tuple(got), aside=aside)
    _drop_if_empty(work)
    raise MissingResource(f"{item.name}: {item.what}", reasons or ["no address"], item.by_hand)


def _obtain(way: Way, work: Path, stage: Path) -> list[Got]:
    """Download everything of a way and lay it out in `stage`."""
    if isinstance(way, Packages):
        got = pypi.join(way, work)
        unpack(got.path, stage, skip=way.skip)
        return [got]
    if isinstance(way, Debian):
        got = debian.download(way, work)
        unpack(got.path, stage)
        return [got]
    files = [(file, _downloaded(file, work)) for file in way]
    for file, got in files:
        if file.archive:
            _unpacked(file, got, stage)
        else:
            place = stage / (file.to or file.name)
            place.parent.mkdir(parents=True, exist_ok=True)
            got.path.replace(place)
    return [got for _, got in files]


def _downloaded(file: File, work: Path) -> Got:
    """The file, taken from an earlier call that stopped after it where there is one."""
    path = work / file.name
    if path.is_file() and not any(url.startswith("file:") for url in file.urls):
        found = sums(path)
        if file.digest is None or matches(found, file.digest):
            return Got(path, "an earlier try", found["sha256"], file.digest is not None)
        path.unlink()
    return download(file.urls, path, file.digest, file.size)


def _unpacked(file: File, got: Got, stage: Path) -> None:
    try:
        unpack(got.path, stage / file.to, file.take, file.skip)
    except DissectError:
        got.path.unlink()  # it would fail again
        raise


def _checked(item: Item, stage: Path, got: Sequence[Got], work: Path) -> Path:
    """The item in what was unpacked; where it isn't the item, the downloads go too."""
    try:
        whole = _whole(item, stage)
        if not all(each.known for each in got):
            check(item, whole)
        return whole
    except SourceFailed:
        shutil.rmtree(work, ignore_errors=True)  # it would fail again
        raise


def _whole(item: Item, stage: Path) -> Path:
    """The item in what was unpacked: archives may have a folder around it, or several."""
    if not item.needs:
        files = [p for p in stage.iterdir() if p.is_file()]
        if len(files) == 1:
            return files[0]
        raise SourceFailed(f"{len(files)} files came where {item.name} is one")
    folders = [stage]
    for _ in range(AROUND + 1):
        found = next((f for f in folders if item.is_complete(f)), None)
        if found:
            return found
        folders = [p for f in folders for p in sorted(f.iterdir()) if p.is_dir()]
    raise SourceFailed(f"what came lacks {', '.join(item.needs)}")


def _put(source: Path, target: Path, force: bool) -> Path | None:
    """Move into place; what was there is replaced if asked for, else kept under another name."""
    aside = None
    if target.exists():
        aside = _free_name(target)
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


def _free_name(target: Path) -> Path:
    number = 1
    while (name := target.with_name(f"{target.name}.old{number}")).exists():
        number += 1
    return name


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold the item's lock, so that two processes don't get it twice."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process is getting %s; waiting for it", target.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _writable(bases: Sequence[Path]) -> Path:
    """The first folder that exists, or could be made, and can be written."""
    for base in bases:
        there = next(p for p in (base, *base.absolute().parents) if p.exists())
        if there.is_dir() and os.access(there, os.W_OK):
            return base
    raise DissectError(
        f"none of {', '.join(map(str, bases))} can be written: choose a folder with --folder"
    )


def _drop_if_empty(work: Path) -> None:
    if not any(p.is_file() for p in work.rglob("*")):
        shutil.rmtree(work, ignore_errors=True)


def _of_the_disk(item: Item, target: Path, error: Exception) -> str:
    return (
        f"{item.name} can't be written to {target.parent}: {error}. Make room or choose another "
        f"folder with --folder; what has come is kept, and the same command goes on from there"
    )
