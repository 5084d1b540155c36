"""What can be fetched is described with these: an item, and the ways to get it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class File:
    """One file to download.

    Args:
        name: what its source calls it, such as `val_256.tar`.
        urls: where it is, the first that works is taken; none for a file that only a user with
            an account can get.
        digest: `sha256:` or `md5:` and hexadecimal digits, all or the first ones; None where no
            dependable one is known.
        size: bytes, where known exactly.
        to: its path below the item's folder; for an archive, the folder to unpack it into.
        archive: whether to unpack it.
        take: patterns of the archive's members that are wanted; all by default.
        skip: patterns of members that aren't.
    """

    name: str
    urls: tuple[str, ...]
    digest: str | None = None
    size: int | None = None
    to: str = ""
    archive: bool = False
    take: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class Packages:
    """An archive that lies in pieces in Python packages.

    Args:
        names: the packages with their versions, in the order of the pieces.
        pieces: pattern of the piece's path in each package.
        archive: name of the joined archive.
        digest: of the joined archive, as in `File`.
        skip: patterns of members that aren't wanted.
    """

    names: tuple[str, ...]
    pieces: str
    archive: str
    digest: str
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class Debian:
    """A Debian package, through `apt-get download`, which checks its signature.

    Args:
        name: the package.
    """

    name: str


Way = tuple[File, ...] | Packages | Debian


@dataclass(frozen=True)
class Holds:
    """How much of something an item has, to tell a copy without a digest from something else.

    Args:
        what: in the plural, for the error.
        least, most: the count's range.
        path: below the item: a file, whose lines count, or with a `*` a pattern of files. Empty:
            the item itself is the file.
    """

    what: str
    least: int
    most: int
    path: str = ""


@dataclass(frozen=True)
class Item:
    """Something that `clipdissect fetch` knows.

    Args:
        name: on the command line.
        what: one line for the list.
        size: bytes to download, about; None where unknown.
        licence: what is known of the terms.
        bases: the folders it is looked for in; it is put into the first that can be written.
        place: path below a base: a folder, or a file where `needs` is empty.
        needs: paths below the folder that must be there for it to be complete; `a|b` means that
            either will do.
        ways: sets of sources, each complete, tried in order.
        by_hand: what to do when all fail, or where there is no way.
        use: the command that uses it; `{path}` stands for where it is.
        also: other places where it may be installed.
        holds: what a copy must hold.
        digests: of files in its archives: path below the item, and digest as in `File`.
    """

    name: str
    what: str
    size: int | None
    licence: str
    bases: Callable[[], list[Path]]
    place: str
    ways: tuple[Way, ...]
    by_hand: str
    use: str
    needs: tuple[str, ...] = ()
    also: tuple[Path, ...] = ()
    holds: tuple[Holds, ...] = ()
    digests: tuple[tuple[str, str], ...] = ()

    def is_complete(self, target: Path) -> bool:
        """Whether all of the item is at a path."""
        if not self.needs:
            return target.is_file() and target.stat().st_size > 0
        return all(any((target / one).exists() for one in need.split("|")) for need in self.needs)

    def find(self) -> Path | None:
        """Where it is already, or None."""
        places = [base / self.place for base in self.bases()]
        found = next((place for place in places if self.is_complete(place)), None)
        return found or next((place for place in self.also if place.exists()), None)


def hub_url(repository: str, commit: str, path: str) -> str:
    """Address of a file on the model hub, or on the mirror that `$HF_ENDPOINT` names."""
    host = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{host}/{repository}/resolve/{commit}/{path}"
