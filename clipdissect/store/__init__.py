"""The feature store: arrays under keys made of everything they depend on.

An entry is a folder of shards, `rows-<start>-<stop>.safetensors`, and a `manifest.json` that is
written last and marks the entry as whole. Safetensors, because a shard is then one file that is
read memory-mapped, needs no pickle, and carries its own facts and checksum.
"""

from clipdissect.store.entries import Entry, Series, Store
from clipdissect.store.inventory import Item, inventory, prune, verify
from clipdissect.store.shards import Damaged, Shard

__all__ = ["Damaged", "Entry", "Item", "Series", "Shard", "Store", "inventory", "prune", "verify"]
