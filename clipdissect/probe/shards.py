"""Tar files: which members they have, and the bytes of one."""

from __future__ import annotations

import glob
import json
import logging
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from clipdissect.errors import DissectError, MissingResource
from clipdissect.images.decode import orientation_of
from clipdissect.probe.image_files import is_hidden, is_image
from clipdissect.probe.options import not_empty
from clipdissect.utils import hashing
from clipdissect.utils.files import note_use, write_text
from clipdissect.utils.paths import cache_dir

log = logging.getLogger(__name__)

INDEX_VERSION = 2
LABELS = ("cls", "txt")  # endings of the members that hold an image's label, the best first
LABEL_BYTES = 4096
# What servers call the thing that changes when a file does.
STAMPS = ("ETag", "etag", "Content-MD5", "Digest", "md5", "md5Hash", "crc32c", "checksum",
          "version_id", "generation", "Last-Modified", "LastModified", "updated", "mtime",
          "created")  # fmt: skip


@dataclass(frozen=True)
class Member:
    """A file in a shard.

    Args:
        name: with the folders in the tar.
        offset: of its first byte in the shard.
        size: in bytes.
        orientation: of an image, as its EXIF tag says, 1 to 8; 1 of anything else.
    """

    name: str
    offset: int
    size: int
    orientation: int = 1


@dataclass(frozen=True)
class Listing:
    """What a shard holds, without hidden files.

    Args:
        members: all but the labels, in the shard's order.
        labels: name of each member that holds a label, its ending in lower case, to its text.
        hidden: how many images are hidden files, or in hidden folders.
    """

    members: list[Member]
    labels: dict[str, str]
    hidden: int = 0


@dataclass(frozen=True)
class Shard:
    """A tar file, here or at an address that fsspec opens.

    Args:
        address: a path, or a URL with its protocol.
    """

    address: str

    @property
    def file(self) -> Path | None:
        """The local file; None where it is somewhere else."""
        return None if "://" in self.address else Path(self.address)

    @property
    def name(self) -> str:
        """The file's name, without folders."""
        return PurePosixPath(self.address.partition("?")[0]).name

    def stamp(self) -> list[Any]:
        """Size and modification time; of a URL the size and what the server says of its state.

        Raises:
            MissingResource: it isn't there.
        """
        with self._explained():
            if self.file:
                stat = self.file.stat()
                return [stat.st_size, stat.st_mtime_ns]
            filesystem, path = _filesystem(self.address)
            about = filesystem.info(path)
            known = {key: str(about[key]) for key in STAMPS if about.get(key) is not None}
            return [about.get("size"), known]

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The shard, for reading from its start.

        Raises:
            MissingResource: it isn't there, or gets out of reach.
        """
        with self._explained():
            if self.file:
                source: Any = self.file.open("rb")
            else:
                filesystem, path = _filesystem(self.address)
                source = filesystem.open(path, "rb")
            with source:
                yield source

    def read(self, offset: int, size: int) -> bytes:
        """Some bytes. Opens the shard anew, so that threads and forked processes may read at once.

        Raises:
            OSError: it is gone, or out of reach.
        """
        if self.file:
            with self.file.open("rb") as source:
                source.seek(offset)
                return source.read(size)
        filesystem, path = _filesystem(self.address)
        found: bytes = filesystem.cat_file(path, start=offset, end=offset + size)
        return found

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (DissectError, tarfile.TarError):
            raise
        except Exception as error:  # what the file systems of URLs raise is their own
            reason = getattr(error, "strerror", None) or error
            raise MissingResource(
                f"the shard {self.name} ({reason})",
                [self.address],
                "set probe.shards to tar files that are there",
            ) from error


def find(shards: str | Sequence[str]) -> list[Shard]:
    """The shards of paths or URLs with braces (`{000..009}`, `{a,b}`) and wildcards, in order.

    Raises:
        MissingResource: a wildcard that nothing matches.
        DissectError: no shards, an empty path, or one twice.
    """
    from braceexpand import braceexpand

    given = [shards] if isinstance(shards, str) else shards
    if not isinstance(given, Sequence) or not all(isinstance(one, str) for one in given):
        raise DissectError(f"probe.shards must be text or a list of texts; got {shards!r}")
    for one in given:
        not_empty(shards=one)
    try:
        patterns = [one for pattern in given for one in braceexpand(str(pattern))]
    except ValueError as error:  # unbalanced braces
        raise DissectError(f"probe.shards: {error}") from error
    found = [Shard(address) for pattern in patterns for address in _glob(pattern)]
    if not found:
        raise DissectError("probe.shards lists no tar files")
    if len({shard.address for shard in found}) < len(found):
        raise DissectError("probe.shards lists a tar file twice")
    return found


def listing(shard: Shard, stamp: Any) -> Listing:
    """What a shard holds; read once, then kept in the user cache.

    Args:
        shard: the tar file.
        stamp: of its state: another one has it read again.

    Raises:
        MissingResource: it isn't there.
        DissectError: not a plain tar file.
    """
    record = cache_dir() / "shards" / f"{hashing.hash_values(INDEX_VERSION, shard.address)}.json"
    known = _load(record, stamp)
    if known is not None:
        note_use(record)
        return known
    log.info("listing the images in %s (once)", shard.name)
    found = _scan(shard)
    rows = [[m.name, m.offset, m.size, m.orientation] for m in found.members]
    entry = {"stamp": stamp, "members": rows, "labels": found.labels, "hidden": found.hidden}
    try:
        write_text(record, json.dumps(entry))
    except OSError as error:
        log.warning("the list of %s isn't kept: %s", shard.name, error)
    return found


def _load(record: Path, stamp: Any) -> Listing | None:
    try:
        kept = json.loads(record.read_text(encoding="utf-8"))
        if kept["stamp"] != stamp:
            return None
        return Listing([Member(*row) for row in kept["members"]], kept["labels"], kept["hidden"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _scan(shard: Shard) -> Listing:
    members: dict[str, Member] = {}  # of a name that comes twice the last counts, as in any tar
    labels: dict[str, str] = {}
    hidden: set[str] = set()
    try:
        with shard.open() as source, tarfile.open(fileobj=source, mode="r:") as tar:
            for info in _entries(source, tar):
                if not info.isreg() or info.issparse():
                    continue
                if any(is_hidden(part) for part in Path(info.name).parts if part != ".."):
                    hidden |= {info.name} if is_image(info.name) else set()
                    continue
                stem, _, kind = info.name.rpartition(".")
                if kind.lower() in LABELS and info.size <= LABEL_BYTES:
                    labels[f"{stem}.{kind.lower()}"] = _text(_file(tar, info).read())
                else:
                    members[info.name] = _member(tar, info)
    except tarfile.TarError as error:
        raise DissectError(
            f"{shard.address} can't be read as a plain tar file ({error}). It may be cut short, or "
            f"compressed: then decompress it first, since images are read from its middle"
        ) from error
    return Listing(list(members.values()), labels, len(hidden))


def _member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    orientation = orientation_of(_file(tar, info)) if is_image(info.name) else 1
    return Member(info.name, info.offset_data, info.size, orientation)


def _file(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    found = tar.extractfile(info)
    assert found is not None  # it is a regular file
    return found


def _entries(source: BinaryIO, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """All entries; `tarfile` takes a file that ends in the middle of a header for a whole one."""
    yield from tar
    source.seek(tar.offset)
    if source.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it has no end mark")


def split(name: str) -> tuple[str, str]:
    """Key and ending of a member: the name before and after the file name's first dot."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _text(raw: bytes) -> str:
    return " ".join(raw.decode("utf-8", errors="replace").split())


def _glob(pattern: str) -> list[str]:
    is_url = "://" in pattern
    if "*" not in pattern and (is_url or not glob.has_magic(pattern)):
        return [pattern if is_url else _absolute(pattern)]
    if is_url:
        filesystem, path = _filesystem(pattern)
        found = [filesystem.unstrip_protocol(match) for match in filesystem.glob(path)]
    else:
        found = glob.glob(_absolute(pattern), recursive=True)
    if not found:
        raise MissingResource("shards", [pattern], "set probe.shards to tar files that are there")
    return sorted(each for each in found if not is_hidden(PurePosixPath(each).name))


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _filesystem(address: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it; one of the process's own."""
    from fsspec.core import url_to_fs

    try:
        filesystem, path = url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise DissectError(f"{address} can't be opened here: {error}") from error
    return filesystem, str(path)
