"""Sources that the user gives: local files and archives, or a mirror."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from clipdissect.errors import DissectError
from clipdissect.fetch.sources import File, Item, Way


def file_url(path: str) -> str:
    """Return the `file://` URL of a local file, or of a folder (ends in `/`)."""
    place = Path(path).expanduser().absolute()
    if not place.exists():
        raise DissectError(f"there is no file {place}")
    return place.as_uri() + ("/" if place.is_dir() else "")


def user_ways(item: Item, urls: Sequence[str]) -> tuple[Way, ...]:
    """Return the ways to get an item from the user's URLs.

    A URL that ends in `/` is a mirror with the usual file names. If its last part is such a name,
    it replaces that file's URLs, and the digest is checked. Any other is the whole item: a file, or
    an archive of it.

    Raises:
        DissectError: several URLs, one of which is none of the item's files.
    """
    known = [way for way in item.ways if isinstance(way, tuple)]
    mirrors = [url for url in urls if url.endswith("/")]
    by_name = {_file_name(url): url for url in urls if url not in mirrors}
    names = [{PurePosixPath(file.name).name for file in way} for way in known]
    ways = [
        tuple(_replace_urls(file, mirrors, by_name) for file in way)
        for way, files in zip(known, names, strict=True)
        if set(by_name) <= files
    ]
    if ways:
        return tuple(ways)
    if len(urls) == 1 and not mirrors:
        return ((_whole_item(item, known, urls[0]),),)
    raise DissectError(
        f"give one archive of {item.name}, or its files by their usual names: "
        f"{', '.join(sorted(set().union(*names))) or 'it has none'}"
    )


def _replace_urls(file: File, mirrors: Sequence[str], by_name: dict[str, str]) -> File:
    url = by_name.get(PurePosixPath(file.name).name)
    return replace(file, urls=(url,) if url else tuple(m + file.name for m in mirrors) or file.urls)


def _whole_item(item: Item, known: Sequence[tuple[File, ...]], url: str) -> File:
    name = _file_name(url)
    files = [file for way in known for file in way]
    is_archive = len(known) < len(item.ways) or any(file.archive for file in files)
    if item.required and is_archive:
        return File(name, (url,), archive=True)
    suffix = PurePosixPath(name).suffix
    same_kind = [file for file in files if PurePosixPath(file.name).suffix == suffix]
    return File((same_kind or files)[0].name, (url,))


def _file_name(url: str) -> str:
    return PurePosixPath(unquote(urlsplit(url).path)).name or "archive"
