"""Sources of the user's own: an archive that is there already, or a mirror."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from clipdissect.errors import DissectError
from clipdissect.fetch.sources import File, Item, Way


def address(path: str) -> str:
    """The `file://` address of a local file, or of a folder with the files (ends in `/`).

    Raises:
        DissectError: there is no such file.
    """
    place = Path(path).expanduser().absolute()
    if not place.exists():
        raise DissectError(f"there is no file {place}")
    return place.as_uri() + ("/" if place.is_dir() else "")


def own_ways(item: Item, addresses: Sequence[str]) -> tuple[Way, ...]:
    """The ways to get an item from the user's own addresses.

    An address that ends in `/` is a mirror: it has files of the usual names. One whose last part is
    a usual name stands for that file, whose digest is checked. Any other is the whole item: a file,
    or an archive of it; `check.check` sees whether it holds what the item has.

    Raises:
        DissectError: several addresses, and one of them is none of the item's files.
    """
    known = [way for way in item.ways if isinstance(way, tuple)]
    mirrors = [address for address in addresses if address.endswith("/")]
    named = {_name(address): address for address in addresses if address not in mirrors}
    ways = [_replaced(way, mirrors, named) for way in known if _fits(way, mirrors, named)]
    if ways:
        return tuple(ways)
    if len(addresses) == 1 and not mirrors:
        return ((_whole(item, known, addresses[0]),),)
    names = sorted({PurePosixPath(file.name).name for way in known for file in way})
    raise DissectError(
        f"give one archive of {item.name}, or its files by their usual names: "
        f"{', '.join(names) or 'it has none'}"
    )


def _fits(way: tuple[File, ...], mirrors: Sequence[str], named: dict[str, str]) -> bool:
    names = {PurePosixPath(file.name).name for file in way}
    return bool(way) and set(named) <= names and bool(mirrors or named)


def _replaced(
    way: tuple[File, ...], mirrors: Sequence[str], named: dict[str, str]
) -> tuple[File, ...]:
    files = []
    for file in way:
        mine = named.get(PurePosixPath(file.name).name)
        urls = (mine,) if mine else tuple(f"{m}{file.name}" for m in mirrors) or file.urls
        files.append(replace(file, urls=urls))
    return tuple(files)


def _whole(item: Item, known: Sequence[tuple[File, ...]], address: str) -> File:
    name = _name(address)
    if item.needs and (len(known) < len(item.ways) or any(f.archive for w in known for f in w)):
        return File(name, (address,), archive=True)
    files = [file for way in known for file in way]
    same_kind = [f for f in files if PurePosixPath(f.name).suffix == PurePosixPath(name).suffix]
    return File((same_kind or files)[0].name, (address,))


def _name(address: str) -> str:
    return PurePosixPath(unquote(urlsplit(address).path)).name or "archive"
