"""Folders of downloaded and computed files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from clipdissect.errors import MissingResource
from clipdissect.utils.dependencies import depends_on
from clipdissect.utils.files import check_listable

# Data sets' places below a data folder, where `fetch/items.yaml` puts them.
BRODEN = "broden1_224"
IMAGENET = "imagenet"
# As torchvision names them.
CIFAR10 = "cifar-10-batches-py"
CIFAR100 = "cifar-100-python"


def cache_dir() -> Path:
    """Return the user cache: `$CLIPDISSECT_CACHE`, else the system's user cache folder."""
    chosen = os.environ.get("CLIPDISSECT_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("clipdissect")


def store_dir() -> Path:
    return cache_dir() / "store"


def data_places() -> list[Path]:
    """Return folders searched for named data: `$CLIPDISSECT_DATA`, then the cache."""
    chosen = os.environ.get("CLIPDISSECT_DATA")
    return [*([Path(chosen).expanduser()] if chosen else []), cache_dir() / "data"]


def data_candidates(path: str | None, *names: str) -> list[Path]:
    """Return the user's `path` if set, else each name, best first, per data folder."""
    if path:
        return [Path(path).expanduser()]
    return [place / name for name in names for place in data_places()]


def find_data(
    description: str, candidates: Iterable[Path], remedy: str, marker: str | None = None
) -> Path:
    """Return the first candidate that exists or, with `marker`, holds that file.

    Raises:
        MissingResource: there is none; the error has `description` and `remedy`.
    """
    tried = []
    for candidate in candidates:
        depends_on(candidate / marker if marker else candidate)
        check_listable(candidate)
        if (candidate / marker).is_file() if marker else candidate.exists():
            return candidate
        tried.append(str((candidate / marker if marker else candidate).absolute()))
    raise MissingResource(description, tried, remedy)


def is_wrong_name(source: str) -> bool:
    """Return whether a word looks like an option's name rather than a path."""
    return source.replace("_", "").isalnum() and not Path(source).exists()
