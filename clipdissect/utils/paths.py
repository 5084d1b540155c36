"""Where the library keeps what it downloads and computes."""

from __future__ import annotations

import os
from pathlib import Path

# Where data sets lie below a data folder: what fetches them and what reads them use the same names.
BRODEN = "broden1_224"
IMAGENET = "imagenet"
IMAGENET_VAL = f"{IMAGENET}/val"
IMAGENET_DEVKIT = f"{IMAGENET}/ILSVRC2012_devkit_t12"
# As torchvision names them.
CIFAR10 = "cifar-10-batches-py"
CIFAR100 = "cifar-100-python"


def cache_dir() -> Path:
    """The user cache: `$CLIPDISSECT_CACHE`, else the system's cache folder for the user."""
    chosen = os.environ.get("CLIPDISSECT_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("clipdissect")


def store_dir() -> Path:
    """The folder of the feature store, below the user cache."""
    return cache_dir() / "store"


def data_places() -> list[Path]:
    """Folders searched for named data (concept lists): `$CLIPDISSECT_DATA`, then the cache."""
    chosen = os.environ.get("CLIPDISSECT_DATA")
    return [*([Path(chosen).expanduser()] if chosen else []), cache_dir() / "data"]
