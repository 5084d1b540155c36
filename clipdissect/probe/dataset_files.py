"""The files that a dataset reads its images from, where it lists them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import ConcatDataset, Subset


@dataclass(frozen=True)
class DatasetFiles:
    """Paths by image number below a common folder."""

    root: Path
    names: tuple[str, ...]

    def __call__(self, index: int) -> Path:
        return self.root / self.names[index]


def files_of(data: Any) -> DatasetFiles | None:
    """Return the files of `samples` or `imgs`, as torchvision's `ImageFolder` lists them.

    Also through `Subset` and `ConcatDataset`. None if a dataset lists none, or a file twice.
    """
    found = _roots_and_files(data)
    if not found or len(found) != len(data):
        return None
    base = Path(os.path.commonpath([root for root, _ in found]))
    if not all(file.is_relative_to(base) for _, file in found):
        return None
    names = tuple(file.relative_to(base).as_posix() for _, file in found)
    return DatasetFiles(base, names) if len(set(names)) == len(names) else None


def _roots_and_files(data: Any) -> list[tuple[Path, Path]] | None:
    if isinstance(data, Subset):
        whole = _roots_and_files(data.dataset)
        return whole and [whole[index] for index in data.indices]
    if isinstance(data, ConcatDataset):
        parts = [_roots_and_files(part) for part in data.datasets]
        return [pair for part in parts for pair in part or ()] if all(parts) else None
    root = getattr(data, "root", None)
    samples = getattr(data, "samples", getattr(data, "imgs", None))
    if not isinstance(root, (str, Path)) or not isinstance(samples, Sequence):
        return None
    paths = [entry[0] if isinstance(entry, (tuple, list)) else entry for entry in samples]
    if len(paths) != len(data) or not all(isinstance(path, (str, Path)) for path in paths):
        return None
    return [(_absolute(root), _absolute(path)) for path in paths]


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))
