"""Tar shards: their members, and the images and labels among them (a sample shares a stem)."""

from __future__ import annotations

import glob
import json
import logging
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, NamedTuple

from clipdissect.errors import DissectError, MissingResource
from clipdissect.images.decode import SUFFIXES, orientation_of
from clipdissect.probe.image_files import is_hidden, is_image
from clipdissect.probe.options import not_empty
from clipdissect.utils import hashing
from clipdissect.utils.files import note_use, write_text
from clipdissect.utils.paths import cache_dir

log = logging.getLogger(__name__)

INDEX_VERSION = 3
LABELS = ("cls", "txt")  # extensions of label members, preferred first
LABEL_BYTES = 4096
# Fields of fsspec's `info` that change with a remote file.
_FIELDS = """ETag etag Content-MD5 Digest md5 md5Hash crc32c checksum version_id generation
    Last-Modified LastModified updated mtime created"""
VERSION_FIELDS = tuple(_FIELDS.split())
COMMON = ("jpg", "jpeg", "png", "webp")  # preferred first, in a sample with several images
EXTENSIONS = (*COMMON, *sorted({s[1:] for s in SUFFIXES} - set(COMMON)))
REMEDY = "set probe.shards to existing tar files"


class Member(NamedTuple):
    """A file in a shard: path, offset of the first byte, and size in bytes."""

    name: str
    offset: int
    size: int
    orientation: int = 1  # EXIF tag of an image; 1 for anything else


class ShardIndex(NamedTuple):
    """A shard's members, without hidden files."""

    members: list[Member]  # without labels, in the shard's order
    labels: dict[str, str]  # text per label member, by name with lower-case extension
    hidden: int = 0  # images that are hidden files, or in hidden folders


@dataclass(frozen=True)
class Shard:
    """A tar file, local or at a URL that fsspec opens."""

    address: str

    @property
    def file(self) -> Path | None:
        return None if "://" in self.address else Path(self.address)

    @property
    def name(self) -> str:
        return PurePosixPath(self.address.partition("?")[0]).name

    def version(self) -> list[Any]:
        """Return size and modification time; for a URL size and the server's checksums."""
        with self._user_errors():
            if self.file:
                stat = self.file.stat()
                return [stat.st_size, stat.st_mtime_ns]
            filesystem, path = _filesystem(self.address)
            info = filesystem.info(path)
            known = [key for key in VERSION_FIELDS if info.get(key) is not None]
            return [info.get("size"), {key: str(info[key]) for key in known}]

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        with self._user_errors():
            if self.file:
                source: Any = self.file.open("rb")
            else:
                filesystem, path = _filesystem(self.address)
                source = filesystem.open(path, "rb")
            with source:
                yield source

    def read(self, offset: int, size: int) -> bytes:
        # Reopened per read, since threads and forked processes may read at the same time.
        if self.file:
            with self.file.open("rb") as source:
                source.seek(offset)
                return source.read(size)
        filesystem, path = _filesystem(self.address)
        data: bytes = filesystem.cat_file(path, start=offset, end=offset + size)
        return data

    @contextmanager
    def _user_errors(self) -> Iterator[None]:
        try:
            yield
        except (DissectError, tarfile.TarError):
            raise
        except Exception as error:  # each fsspec file system raises its own
            reason = getattr(error, "strerror", None) or error
            raise MissingResource(
                f"the shard {self.name} ({reason})", [self.address], REMEDY
            ) from error


def find_shards(shards: str | Sequence[str]) -> list[Shard]:
    """Return the shards of paths or URLs with braces (`{000..009}`, `{a,b}`) and wildcards."""
    from braceexpand import braceexpand

    patterns = [shards] if isinstance(shards, str) else shards
    if not isinstance(patterns, Sequence) or not all(isinstance(p, str) for p in patterns):
        raise DissectError(f"probe.shards must be text or a list of texts; got {shards!r}")
    for pattern in patterns:
        not_empty(shards=pattern)
    try:
        expanded = [path for pattern in patterns for path in braceexpand(str(pattern))]
    except ValueError as error:  # unbalanced braces
        raise DissectError(f"probe.shards: {error}") from error
    addresses = [address for pattern in expanded for address in _glob(pattern)]
    if not addresses:
        raise DissectError("probe.shards lists no tar files")
    if len(set(addresses)) < len(addresses):
        raise DissectError("probe.shards lists a tar file twice")
    return [Shard(address) for address in addresses]


def index_shard(shard: Shard, version: Any) -> ShardIndex:
    """Return a shard's members, cached in the user cache until `version` changes."""
    cache = cache_dir() / "shards" / f"{hashing.hash_values(INDEX_VERSION, shard.address)}.json"
    cached = _load(cache, version)
    if cached is not None:
        note_use(cache)
        return cached
    log.info("listing the images in %s (once)", shard.name)
    index = _scan(shard)
    try:
        write_text(cache, json.dumps([version, index]))
    except OSError as error:
        log.warning("can't cache the list of %s: %s", shard.name, error)
    return index


def _load(cache: Path, version: Any) -> ShardIndex | None:
    try:
        cached_version, (members, *fields) = json.loads(cache.read_text(encoding="utf-8"))
        if cached_version != version:
            return None
        return ShardIndex([Member(*member) for member in members], *fields)
    except (OSError, ValueError, TypeError):
        return None


def _scan(shard: Shard) -> ShardIndex:
    members: dict[str, Member] = {}  # the last of repeated names counts, as in any tar
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
                stem, _, extension = info.name.rpartition(".")
                if extension.lower() in LABELS and info.size <= LABEL_BYTES:
                    text = _file(tar, info).read().decode("utf-8", errors="replace")
                    labels[f"{stem}.{extension.lower()}"] = " ".join(text.split())
                else:
                    tag = orientation_of(_file(tar, info)) if is_image(info.name) else 1
                    members[info.name] = Member(info.name, info.offset_data, info.size, tag)
    except tarfile.TarError as error:
        raise DissectError(
            f"{shard.address} can't be read as a plain tar file ({error}). It may be truncated, or "
            f"compressed: then decompress it first, since images are read at offsets"
        ) from error
    return ShardIndex(list(members.values()), labels, len(hidden))


def _file(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(info)
    assert file is not None  # it is a regular file
    return file


def _entries(source: BinaryIO, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield all entries; raise if the end mark is missing, which `tarfile` accepts."""
    yield from tar
    source.seek(tar.offset)
    if source.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it has no end mark")


def _glob(pattern: str) -> list[str]:
    is_url = "://" in pattern
    local = "" if is_url else str(Path(pattern).expanduser().absolute())
    if "*" not in pattern and (is_url or not glob.has_magic(pattern)):
        return [local or pattern]
    if is_url:
        filesystem, path = _filesystem(pattern)
        addresses = [filesystem.unstrip_protocol(match) for match in filesystem.glob(path)]
    else:
        addresses = glob.glob(local, recursive=True)
    if not addresses:
        raise MissingResource("shards", [pattern], REMEDY)
    return sorted(a for a in addresses if not is_hidden(PurePosixPath(a).name))


def _filesystem(address: str) -> tuple[Any, str]:
    """Return a URL's file system (each process opens one) and the path in it."""
    from fsspec.core import url_to_fs

    try:
        filesystem, path = url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise DissectError(f"{address} can't be opened: {error}") from error
    return filesystem, str(path)


@dataclass(frozen=True)
class SampleImages:
    images: list[Member]
    labels: list[str | None]
    extensions: Counter[str]  # images per extension
    others: Counter[str]  # extensions of other members that look like images


def select_images(index: ShardIndex, extensions: Sequence[str] = EXTENSIONS) -> SampleImages:
    """Select one image per sample: the one with the first of the extensions.

    `a.b.png` is a separate sample if a label is named `a.b.cls` and no image `a.png`;
    a wildcard (`*.png`) selects all such names.
    """
    ranking = _Ranking(extensions, index)
    best: dict[str, tuple[int, Member]] = {}
    for member in index.members:
        rank, key = ranking.rank(member.name) or (None, "")
        if rank is not None and (key not in best or rank < best[key][0]):
            best[key] = (rank, member)
    images = sorted(((key, m) for key, (_, m) in best.items()), key=lambda pair: pair[1].offset)
    names = {member.name for _, member in images}
    others = [m.name for m in index.members if is_image(m.name) and m.name not in names]
    return SampleImages(
        [member for _, member in images],
        [_label(index.labels, key, member.name) for key, member in images],
        Counter(_split(name)[1] for name in names),
        Counter(_split(name)[1] for name in others),
    )


class _Ranking:
    def __init__(self, extensions: Sequence[str], index: ShardIndex) -> None:
        self.extensions = extensions
        keys = [_split(member.name) for member in index.members]
        self.plain = {key for key, extension in keys if extension in extensions}
        self.labelled = {name.rpartition(".")[0] for name in index.labels}

    def rank(self, name: str) -> tuple[int, str] | None:
        """Return the extension's rank and the sample's key; None if it isn't an image."""
        key, extension = _split(name)
        stem = name.rpartition(".")[0]
        for rank, pattern in enumerate(self.extensions):
            if extension == pattern:
                return rank, key
            if "*" in pattern and fnmatchcase(extension, pattern):
                return rank, stem
        last = extension.rpartition(".")[2]
        is_sample = last != extension and stem in self.labelled and key not in self.plain
        return (
            (self.extensions.index(last), stem) if is_sample and last in self.extensions else None
        )


def _split(name: str) -> tuple[str, str]:
    """Split a member's name at the file name's first dot, into key and extension."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _label(labels: Mapping[str, str], key: str, name: str) -> str | None:
    """Return the label of the name without its last extension, else of the sample."""
    stems = dict.fromkeys((name.rpartition(".")[0], key, _split(name)[0]))
    texts = (labels.get(f"{stem}.{extension}") for stem in stems for extension in LABELS)
    return next(filter(None, texts), None)


def extensions_of(image: Any) -> tuple[str, ...]:
    """Return the extensions of `probe.image`, in lower case, without the leading dot."""
    if image is None:
        return EXTENSIONS
    listed = [image] if isinstance(image, str) else image
    is_list = isinstance(listed, Sequence)
    extensions = tuple(str(text).lower().removeprefix(".") for text in listed) if is_list else ()
    if not extensions or not all(extensions):
        raise DissectError(
            f"probe.image is {image!r}: give the extension of the members that are images, such as "
            f"jpg or [jpg, rgb.png]"
        )
    return extensions


def shard_notes(shards: Sequence[SampleImages], hidden: int) -> tuple[str, ...]:
    count = sum(len(shard.images) for shard in shards)
    labelled = sum(label is not None for shard in shards for label in shard.labels)
    extensions = sum((shard.extensions for shard in shards), Counter())
    others = sum((shard.others for shard in shards), Counter())
    if not count:
        raise DissectError(
            f"no images in the shards. Extensions in them: "
            f"{_counts(others) or 'none of images'}. Set probe.image to those to take, such "
            f"as probe.image={next(iter(others), 'jpg')}, or '*.png' for names with several dots"
        )
    notes = [f"shards: {count} images ({_counts(extensions)}), {labelled} of them with a label"]
    if others:
        notes.append(
            f"members of the shards left out of the probe: {_counts(others)} (probe.image says "
            f"which extensions are used, one image per sample)"
        )
    if hidden:
        notes.append(f"images left out of the probe: {hidden} hidden files in the shards")
    return tuple(notes)


def _counts(extensions: Counter[str], limit: int = 5) -> str:
    listed = [f"{count} {extension}" for extension, count in extensions.most_common(limit)]
    rest = len(extensions) - len(listed)
    return ", ".join(listed) + (f" and {rest} more extensions" if rest else "")
