"""Download the data and weights that the paper's experiments need; `ITEMS` lists them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipdissect.errors import unknown
from clipdissect.fetch.items import ITEMS
from clipdissect.fetch.run import Fetched, get
from clipdissect.fetch.sources import Item

__all__ = ["ITEMS", "Fetched", "Item", "fetch", "find"]


def find(name: str) -> Path | None:
    """Return an item's location, or None if it is absent."""
    return _item(name).find()


def fetch(
    name: str, folder: Path | None = None, urls: Sequence[str] = (), force: bool = False
) -> Fetched:
    """Get an item, unless it is there already.

    Args:
        folder: parent folder, instead of where the library looks.
        urls: the user's own files (`file://`) or addresses, instead of the known sources.

    Raises:
        MissingResource: no source provides it; says how to get it by hand.
        DissectError: unknown name, the disk is full, or the folder can't be written.
    """
    return get(_item(name), folder, urls, force)


def _item(name: str) -> Item:
    if name not in ITEMS:
        raise unknown("item", name, ITEMS)
    return ITEMS[name]
