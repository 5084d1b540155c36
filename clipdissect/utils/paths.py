"""Folders of downloaded and computed files."""

from __future__ import annotations

import os
from pathlib import Path

# Data sets' places below a data folder, both for fetching and for reading them.
BRODEN = "broden1_224"
IMAGENET = "imagenet"
IMAGENET_VAL = f"{IMAGENET}/val"
IMAGENET_DEVKIT = f"{IMAGENET}/ILSVRC2012_devkit_t12"
# As torchvision names them.
CIFAR10 = "cifar-10-batches-py"
CIFAR100 = "cifar-100-python"


def cache_dir() -> Path:
    """Return the user cache: `$CLIPDISSECT_CACHE`, else the system's cache folder for the user."""
    chosen = os.environ.get("CLIPDISSECT_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("clipdissect")


def store_dir() -> Path:
    """Return the folder of the feature store, below the user cache."""
    return cache_dir() / "store"


def data_places() -> list[Path]:
    """Return folders searched for named data: `$CLIPDISSECT_DATA`, then the cache."""
    chosen = os.environ.get("CLIPDISSECT_DATA")
    return [*([Path(chosen).expanduser()] if chosen else []), cache_dir() / "data"]
