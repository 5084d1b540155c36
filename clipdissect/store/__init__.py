"""The feature store: arrays under cache keys of all that they depend on."""

from clipdissect.store.entries import Entry, Series, Store
from clipdissect.store.inventory import Item, inventory, prune, verify
from clipdissect.store.shards import Damaged, Shard

__all__ = ["Damaged", "Entry", "Item", "Series", "Shard", "Store", "inventory", "prune", "verify"]
