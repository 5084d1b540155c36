"""Whether a copy of an item that no digest vouches for is the item."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from clipdissect.fetch.download import SourceFailed
from clipdissect.fetch.sources import Holds, Item
from clipdissect.utils.files import matches, sums

LARGEST_HEADER = 100_000_000  # bytes of a safetensors file, as its format allows


def check(item: Item, place: Path) -> None:
    """Compare a copy with the known digests of its files and the counts of what it must hold.

    Args:
        item: what it should be.
        place: the copy, a file or folder.

    Raises:
        SourceFailed: it is something else, or a part of it.
    """
    for holds in item.holds:
        _check_count(item, place, holds)
    for path, digest in _known(item):
        file = place / path if path else place
        if file.is_file() and not matches(sums(file), digest):
            raise SourceFailed(
                f"{path or 'what came'} isn't the file of {item.name}: its digest isn't {digest}"
            )
    for file in [place] if place.is_file() else place.glob("*.safetensors"):
        if file.suffix == ".safetensors" and not _is_safetensors(file):
            raise SourceFailed(f"{file.name} is no safetensors file")


def _check_count(item: Item, place: Path, holds: Holds) -> None:
    if "*" in holds.path:
        count = sum(1 for _ in place.glob(holds.path))
    else:
        file = place / holds.path if holds.path else place
        count = _lines(file) if file.is_file() else 0
    if not holds.least <= count <= holds.most:
        most = f" to {holds.most:,}" if holds.most > holds.least else ""
        raise SourceFailed(
            f"what came has {count:,} {holds.what}, but {item.name} has {holds.least:,}{most}"
        )


def _lines(file: Path) -> int:
    with file.open("rb") as source:
        return sum(1 for line in source if line.strip())


def _known(item: Item) -> Iterator[tuple[str, str]]:
    """Paths below the item and their digests; of a file by itself only one that has no versions."""
    yield from item.digests
    for way in item.ways:
        files = [f for f in way if not f.archive and f.digest] if isinstance(way, tuple) else []
        for file in files:
            if item.needs:
                yield file.to or file.name, str(file.digest)
            elif not item.holds:
                yield "", str(file.digest)


def _is_safetensors(file: Path) -> bool:
    with file.open("rb") as source:
        size = int.from_bytes(source.read(8), "little")
        if not 2 <= size <= LARGEST_HEADER:
            return False
        try:
            return isinstance(json.loads(source.read(size)), dict)
        except ValueError:
            return False
