"""The table of all items, read from `items.yaml`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from clipdissect.fetch.sources import DebianPackage, ExpectedCount, File, Item, PipPackages, Way
from clipdissect.utils.paths import cache_dir, data_places

HUB = "https://huggingface.co"


def torch_hub() -> list[Path]:
    """Return the checkpoint folder of `torch.hub.get_dir`, without importing torch."""
    home = os.environ.get("TORCH_HOME")
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return [Path(home or f"{cache}/torch").expanduser() / "hub" / "checkpoints"]


BASES: Mapping[str, Callable[[], list[Path]]] = {
    "data": data_places,
    "cache": lambda: [cache_dir()],
    "encoders": lambda: [cache_dir() / "encoders"],
    "torch": torch_hub,
}


def _load() -> dict[str, Any]:
    # The loader in C is ten times as fast; this runs whenever the targets are imported.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = (Path(__file__).parent / "items.yaml").read_text("utf-8")
    hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    table: dict[str, Any] = yaml.load(text.replace(f"{HUB}/", f"{hub}/"), loader)
    return table


def _item(name: str, fields: Mapping[str, Any]) -> Item:
    values = {
        **fields,
        "size": fields.get("size"),
        "bases": BASES[fields["base"]],
        "ways": tuple(map(_way, fields["ways"])),
        "required": tuple(fields.get("required", ())),
        "also": tuple(map(Path, fields.get("also", ()))),
        "counts": tuple(ExpectedCount(**count) for count in fields.get("counts", ())),
        "digests": tuple(fields.get("digests", {}).items()),
    }
    del values["base"]
    return Item(name, **values)


def _way(fields: Any) -> Way:
    if isinstance(fields, list):
        return tuple(File(**_tuples(file)) for file in fields)
    return DebianPackage(**fields) if "debian" in fields else PipPackages(**_tuples(fields))


def _tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}


_TABLE = _load()
ITEMS: dict[str, Item] = {name: _item(name, fields) for name, fields in _TABLE.items()}
PLACES365_DIGEST: str = _TABLE["resnet18_places365"]["ways"][0][0]["digest"]
