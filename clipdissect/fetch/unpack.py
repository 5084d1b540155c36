"""Unpack untrusted zip, tar and Debian archives safely."""

from __future__ import annotations

import calendar
import lzma
import os
import posixpath
import shutil
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from clipdissect.errors import DissectError

MAX_EXPANSION = 20  # unpacked bytes per packed byte; images and weights have about 1, texts about 5
ALWAYS_ALLOWED = 1 << 30  # unpacked bytes that are fine for any archive
MAX_FILES = 3_000_000
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,  # a compression that Python's zipfile doesn't know
)


@dataclass(frozen=True)
class _Member:
    """A file of an archive, or a link to the file at the archive path `link`."""

    name: str
    size: int = 0
    time: float = 0
    open: Callable[[], IO[bytes] | None] = lambda: None
    link: str | None = None


def unpack(archive: Path, folder: Path, take: Sequence[str] = (), skip: Sequence[str] = ()) -> None:
    """Unpack an archive, recognised by content, all or nothing; files keep their times.

    `take` and `skip` are patterns of member paths; `folder` is removed on failure if it was new.
    No member may lead out of it, and links become copies of the files that they point to.

    Raises:
        DissectError: a damaged, encrypted or unsafe archive, or one that expands beyond reason.
    """
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _unpack(archive, folder, take, skip)
    except BaseException as error:
        if not existed:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, _DAMAGED) or (isinstance(error, OSError) and error.errno is None):
            raise DissectError(f"{archive.name} is damaged: {error}") from error
        if isinstance(error, (NotADirectoryError, IsADirectoryError, FileExistsError)):
            raise DissectError(f"{archive.name} has a file where it has a folder") from error
        raise


def _unpack(archive: Path, folder: Path, take: Sequence[str], skip: Sequence[str]) -> None:
    writer = _Writer(archive)
    links = []
    for member in _members(archive):
        path = folder / _safe_path(archive, member.name)
        if not _is_wanted(member.name, take, skip):
            continue
        if member.link is not None:
            links.append((path, folder / _safe_path(archive, member.link)))
        elif (source := member.open()) is not None:
            writer.write(path, source, member.size, member.time)
    for path, target in links:
        if target.is_file() and not path.exists():
            status = target.stat()
            writer.write(path, target.open("rb"), status.st_size, status.st_mtime)


@dataclass
class _Writer:
    archive: Path
    size: int = 0
    files: int = 0

    def write(self, path: Path, source: IO[bytes], size: int, time: float) -> None:
        # The readers of both formats stop at the announced size, so checking it is enough.
        self.size += size
        self.files += 1
        limit = max(ALWAYS_ALLOWED, MAX_EXPANSION * self.archive.stat().st_size)
        if self.size > limit or self.files > MAX_FILES:
            raise DissectError(
                f"{self.archive.name} expands to more than {limit} bytes or {MAX_FILES} files: "
                f"unpacking was stopped"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with source, path.open("wb") as out:
            shutil.copyfileobj(source, out)
        os.utime(path, (time, time))


def _safe_path(archive: Path, name: str) -> PurePosixPath:
    """Return a member's path; raise a DissectError if it leads out on any system."""
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.anchor or ".." in path.parts or "\0" in name:
            raise DissectError(f"{archive.name} has a path that leads out: {name!r}")
    return PurePosixPath(name)


def _is_wanted(name: str, take: Sequence[str], skip: Sequence[str]) -> bool:
    path = PurePosixPath(name)
    return (not take or any(fnmatchcase(str(path), pattern) for pattern in take)) and not any(
        fnmatchcase(str(path), pattern) or fnmatchcase(path.name, pattern) for pattern in skip
    )


def _members(archive: Path) -> Iterator[_Member]:
    """Yield the archive's files and links; read each before asking for the next."""
    with archive.open("rb") as source:
        start = source.read(8)
    if start == b"!<arch>\n":
        with _debian_data(archive) as stream:
            yield from _tar_members(archive, stream)
    elif zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    else:
        with archive.open("rb") as stream:
            yield from _tar_members(archive, stream)


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if info.flag_bits & 1:
                raise DissectError(f"{archive.name} is encrypted")
            if info.is_dir():
                yield _Member(info.filename)
            elif stat.S_ISLNK(info.external_attr >> 16):
                with opened.open(info) as source:
                    target = source.read(4096).decode("utf-8", "replace")
                yield _Member(info.filename, link=_link_path(info.filename, target))
            else:
                read = partial(opened.open, info)
                yield _Member(info.filename, info.file_size, _zip_time(info), read)


def _tar_members(archive: Path, stream: IO[bytes]) -> Iterator[_Member]:
    try:
        opened = tarfile.open(fileobj=stream, mode="r|*")  # noqa: SIM115 - closed below
    except tarfile.ReadError as error:
        raise DissectError(f"{archive.name} is no zip, tar or deb archive") from error
    with opened:
        for info in opened:
            if info.isdir():
                yield _Member(info.name)
            elif info.issym():
                yield _Member(info.name, link=_link_path(info.name, info.linkname))
            elif info.islnk():
                yield _Member(info.name, link=info.linkname)
            elif info.isreg():
                read = partial(opened.extractfile, info)
                yield _Member(info.name, info.size, int(info.mtime), read)
            else:
                raise DissectError(f"{archive.name} holds a device: {info.name}")


def _link_path(name: str, target: str) -> str:
    """Return the archive path that a symbolic link points to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def _zip_time(info: zipfile.ZipInfo) -> int:
    try:
        return calendar.timegm((*info.date_time, 0, 0, 0))  # independent of the time zone
    except ValueError:  # no date: month 0
        return 0


@contextmanager
def _debian_data(package: Path) -> Iterator[IO[bytes]]:
    """Open the tar archive with a Debian package's files as a stream."""
    with package.open("rb") as source:
        name = _seek_debian_data(source, package)
        if not name.endswith(".zst"):
            yield source
            return
    if shutil.which("dpkg-deb") is None:
        raise DissectError(f"{package.name} is packed with zstd, which needs dpkg-deb")
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # it is a pipe
        yield process.stdout


def _seek_debian_data(source: IO[bytes], package: Path) -> str:
    """Seek to the body of `data.tar.*` in an `ar` archive, and return the member's name."""
    position = 8  # after the magic; then headers of 60 bytes, each before a body of even size
    while True:
        source.seek(position)
        header = source.read(60)
        if len(header) < 60 or not header[48:58].strip().isdigit():
            raise DissectError(f"{package.name} is no Debian package, or damaged")
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        if name.startswith("data.tar"):
            return name
        size = int(header[48:58])
        position += 60 + size + size % 2
