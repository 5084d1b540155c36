"""The table of all that `clipdissect fetch` knows."""

from __future__ import annotations

from clipdissect.fetch.datasets import DATASETS
from clipdissect.fetch.lists import LISTS
from clipdissect.fetch.sources import Item
from clipdissect.fetch.weights import WEIGHTS

ITEMS: dict[str, Item] = {item.name: item for item in (*DATASETS, *LISTS, *WEIGHTS)}
