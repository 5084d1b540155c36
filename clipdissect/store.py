"""The feature store: arrays under keys made of everything they depend on.

An entry is two files, `<key>.safetensors` (the arrays) and `<key>.json` (what they are, and a
checksum of both). The second is written last and marks the entry as whole.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from clipdissect import digest
from clipdissect.files import atomic, write_text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """What the store keeps under one key.

    Args:
        arrays: name to array.
        about: JSON-able facts on where the arrays come from.
    """

    arrays: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)


class Store:
    """A folder of entries.

    Args:
        root: the folder; made when first written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def get(self, key: str) -> Entry | None:
        """The entry under a key, or None where it is absent, incomplete or damaged (logged)."""
        arrays, about = self._paths(key)
        if not about.is_file() or not arrays.is_file():
            return None
        try:
            manifest = json.loads(about.read_text(encoding="utf-8"))
            if digest.of(digest.of_file(arrays), manifest["about"]) != manifest["checksum"]:
                raise ValueError("the checksum differs")
            return Entry(load_file(arrays), manifest["about"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("damaged entry %s in the store (%s): computing it again", arrays, error)
            return None

    def put(self, key: str, entry: Entry) -> None:
        """Write an entry, replacing any older one under the key.

        Raises:
            OSError: the disk is full or can't be written; nothing is then left under the key.
        """
        arrays, about = self._paths(key)
        about.unlink(missing_ok=True)
        with atomic(arrays) as temporary:
            save_file({n: t.contiguous() for n, t in entry.arrays.items()}, temporary)
            checksum = digest.of(digest.of_file(temporary), entry.about)
        manifest = {"key": key, "checksum": checksum, "about": entry.about}
        write_text(about, json.dumps(manifest, indent=1) + "\n")

    def _paths(self, key: str) -> tuple[Path, Path]:
        folder = self.root / key[:2]
        return folder / f"{key}.safetensors", folder / f"{key}.json"
