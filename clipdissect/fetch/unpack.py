"""Unpacking zip, tar and Debian archives that aren't trusted.

No member may lead out of the folder, links are never made (a file that a link inside points to is
copied), and an archive that swells beyond reason stops.
"""

from __future__ import annotations

import calendar
import lzma
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from clipdissect.errors import DissectError

SWELL = 20  # unpacked bytes for each packed one; pictures and weights have about 1, texts about 5
ALWAYS = 1 << 30  # unpacked bytes that are fine for any archive
MOST_FILES = 3_000_000
CHUNK = 1 << 20
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,  # a way of packing that Python's zipfile doesn't know
)


def unpack(archive: Path, folder: Path, take: Sequence[str] = (), skip: Sequence[str] = ()) -> None:
    """Unpack an archive into a new folder, all or nothing; the files keep their times.

    Args:
        archive: zip, tar (also packed with gzip, bzip2 or xz) or Debian package, told apart by
            content.
        folder: where to; may exist and hold other things. Removed if unpacking fails and it was
            made here.
        take: patterns of the members' paths that are wanted, all by default.
        skip: patterns of paths, or of their last part, that aren't.

    Raises:
        DissectError: a member leads out of the folder, the archive is no archive, damaged,
            encrypted, or far larger than its size lets expect.
        OSError: the disk is full.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _Unpacking(archive, folder, tuple(take), tuple(skip)).run()
    except BaseException as error:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, _DAMAGED) or (isinstance(error, OSError) and error.errno is None):
            raise DissectError(f"{archive.name} is damaged: {error}") from error
        if isinstance(error, (NotADirectoryError, IsADirectoryError, FileExistsError)):
            raise DissectError(f"{archive.name} has a file where it has a folder") from error
        raise


@dataclass
class _Unpacking:
    archive: Path
    folder: Path
    take: tuple[str, ...]
    skip: tuple[str, ...]
    links: list[tuple[Path, Path]] = field(default_factory=list)
    written: int = 0
    files: int = 0

    def run(self) -> None:
        with self.archive.open("rb") as source:
            start = source.read(8)
        if start == b"!<arch>\n":
            with _inside_debian(self.archive) as stream:
                self._tar(stream)
        elif zipfile.is_zipfile(self.archive):
            self._zip()
        else:
            with self.archive.open("rb") as stream:
                self._tar(stream)
        self._copy_linked()

    def _zip(self) -> None:
        with zipfile.ZipFile(self.archive) as opened:
            for info in opened.infolist():
                if info.flag_bits & 1:
                    raise DissectError(f"{self.archive.name} is encrypted")
                place = self._place(info.filename)
                if info.is_dir() or not self._wanted(info.filename):
                    continue
                with opened.open(info) as source:
                    if stat.S_ISLNK(info.external_attr >> 16):
                        self._link(place, source.read(4096).decode("utf-8", "replace"))
                    else:
                        self._file(place, source, _time_of(info))

    def _tar(self, stream: IO[bytes]) -> None:
        try:
            opened = tarfile.open(fileobj=stream, mode="r|*")  # noqa: SIM115 - closed below
        except tarfile.ReadError as error:
            raise DissectError(f"{self.archive.name} is no zip, tar or deb archive") from error
        with opened:
            for info in opened:
                place = self._place(info.name)
                if info.isdir() or not self._wanted(info.name):
                    continue
                if info.issym():
                    self._link(place, info.linkname)
                elif info.islnk():
                    self.links.append((place, self._place(info.linkname)))
                elif info.isreg():
                    source = opened.extractfile(info)
                    assert source is not None  # it is a regular file
                    self._file(place, source, int(info.mtime))
                else:
                    raise DissectError(f"{self.archive.name} holds a device: {info.name}")

    def _place(self, name: str) -> Path:
        """Where a member goes; refuses paths that lead elsewhere, on any system."""
        for path in (PurePosixPath(name), PureWindowsPath(name)):
            if path.anchor or ".." in path.parts or "\0" in name:
                raise DissectError(f"{self.archive.name} has a path that leads out: {name!r}")
        return self.folder / PurePosixPath(name)

    def _wanted(self, name: str) -> bool:
        path = PurePosixPath(name)
        tail = path.name
        taken = not self.take or any(fnmatchcase(str(path), p) for p in self.take)
        return taken and not any(
            fnmatchcase(str(path), p) or fnmatchcase(tail, p) for p in self.skip
        )

    def _link(self, place: Path, to: str) -> None:
        goal = Path(os.path.normpath(place.parent / to))
        if PurePosixPath(to).is_absolute() or not goal.is_relative_to(self.folder):
            raise DissectError(f"{self.archive.name} has a link that leads out: {to!r}")
        self.links.append((place, goal))

    def _copy_linked(self) -> None:
        for place, goal in self.links:
            if goal.is_file() and not place.exists():
                with goal.open("rb") as source:
                    self._file(place, source, int(goal.stat().st_mtime))

    def _stop_swelling(self) -> None:
        most = max(ALWAYS, SWELL * self.archive.stat().st_size)
        if self.written > most or self.files > MOST_FILES:
            raise DissectError(
                f"{self.archive.name} swells to more than {most} bytes or {MOST_FILES} files: "
                f"unpacking was stopped"
            )

    def _file(self, place: Path, source: IO[bytes], time: int) -> None:
        self.files += 1
        self._stop_swelling()
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("wb") as out:
            while chunk := source.read(CHUNK):
                self.written += len(chunk)
                self._stop_swelling()
                out.write(chunk)
        os.utime(place, (time, time))


def _time_of(info: zipfile.ZipInfo) -> int:
    try:
        return calendar.timegm((*info.date_time, 0, 0, 0))  # the same on machines of any time zone
    except ValueError:  # no date: month 0
        return 0


@contextmanager
def _inside_debian(package: Path) -> Iterator[IO[bytes]]:
    """The tar archive with a Debian package's files, as a stream."""
    with package.open("rb") as source:
        name, start = _data_member(source, package)
        if not name.endswith(".zst"):
            source.seek(start)
            yield source
            return
    if shutil.which("dpkg-deb") is None:
        raise DissectError(f"{package.name} is packed with zstd, which needs dpkg-deb")
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None  # it is a pipe
        yield process.stdout


def _data_member(source: IO[bytes], package: Path) -> tuple[str, int]:
    # The `ar` format: 8 bytes of magic, then headers of 60 bytes, each before an even-sized body.
    position = 8
    while True:
        source.seek(position)
        header = source.read(60)
        if len(header) < 60 or not header[48:58].strip().isdigit():
            raise DissectError(f"{package.name} is no Debian package, or damaged")
        name = header[:16].decode("ascii", "replace").strip().rstrip("/")
        size = int(header[48:58])
        if name.startswith("data.tar"):
            return name, position + 60
        position += 60 + size + size % 2
