"""The feature store: arrays under cache keys made of everything they depend on.

An entry is a folder of shards, `rows-<start>-<stop>.safetensors`, and a `manifest.json`, written
last, that marks it as complete. A safetensors file is memory-mapped, needs no pickle, and carries
its own facts and checksum.
"""

from clipdissect.store.entries import Entry, Series, Store
from clipdissect.store.inventory import Item, inventory, prune, verify
from clipdissect.store.shards import Damaged, Shard

__all__ = ["Damaged", "Entry", "Item", "Series", "Shard", "Store", "inventory", "prune", "verify"]
