"""Exemplars in the files that MILAN's own code writes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from clipdissect.errors import DissectError, MissingResource
from clipdissect.method.milan.exemplars import Exemplars, Pictures, squared

BATCH = 32
Location = tuple[str, int, int]  # layer, row and rank of an exemplar with a picture


@dataclass
class FileExemplars(Exemplars):
    """Exemplars of a layer, memory-mapped."""

    images: Int[Tensor, "units exemplars"]
    stored: Shaped[np.ndarray, "units exemplars one h w"]
    units: Int[np.ndarray, " units"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def masks(self, units: Int[Tensor, " n"], ranks: Int[Tensor, " n"]) -> Float[Tensor, "n h w"]:
        chosen = self.stored[units.numpy(), ranks.numpy(), 0]
        return torch.from_numpy(chosen.astype(np.float32))

    def part(self, first: int, stop: int) -> FileExemplars:
        parts = self.images[first:stop], self.stored[first:stop], self.units[first:stop]
        return FileExemplars(*parts)


@dataclass
class ExemplarFolder:
    """A folder with `<layer>/images.npy`, `<layer>/masks.npy` and perhaps `<layer>/units.npy`.

    Pictures that occur several times count once.
    """

    root: Path
    layers: dict[str, FileExemplars] = field(default_factory=dict)
    images: dict[str, Shaped[np.ndarray, "units exemplars 3 h w"]] = field(default_factory=dict)
    locations: list[Location] = field(default_factory=list)  # of each picture
    digest: str = ""

    def pictures(self, numbers: Int[Tensor, " images"]) -> Pictures:
        """Yield the pictures of these numbers in batches."""
        for batch in torch.split(numbers, BATCH):
            places = [self.locations[number] for number in batch.tolist()]
            arrays = [self.images[layer][row, rank] for layer, row, rank in places]
            yield batch, squared(torch.from_numpy(np.stack(arrays)))


def read(root: Path) -> ExemplarFolder:
    """Open a folder of exemplars.

    Raises:
        MissingResource: no `images.npy` below it.
        DissectError: arrays of other shapes or types than MILAN writes.
    """
    paths = sorted(root.glob("*/images.npy"))
    if not paths:
        remedy = "set method.exemplars to a folder with LAYER/images.npy and LAYER/masks.npy"
        raise MissingResource("exemplars", [str(root.absolute() / "*/images.npy")], remedy)
    folder = ExemplarFolder(root)
    numbers: dict[bytes, int] = {}
    for path in paths:
        _add(folder, path.parent, numbers)
    folder.digest = hashlib.blake2b(b"".join(numbers), digest_size=16).hexdigest()
    return folder


def _add(folder: ExemplarFolder, layer: Path, numbers: dict[bytes, int]) -> None:
    images, masks = _array(layer / "images.npy", 3), _array(layer / "masks.npy", 1)
    if images.dtype != np.uint8 or images.shape[:2] != masks.shape[:2]:
        raise DissectError(
            f"{layer}: images.npy is {images.dtype} {images.shape} and masks.npy {masks.shape}; "
            f"they must be uint8 [units, exemplars, 3, h, w] and [units, exemplars, 1, h, w]"
        )
    own = np.zeros(images.shape[:2], dtype=np.int64)
    for row, rank in np.ndindex(own.shape):
        digest = hashlib.blake2b(images[row, rank].tobytes(), digest_size=16).digest()
        own[row, rank] = numbers.setdefault(digest, len(numbers))
        if own[row, rank] == len(folder.locations):
            folder.locations.append((layer.name, row, rank))
    folder.images[layer.name] = images
    folder.layers[layer.name] = FileExemplars(
        torch.from_numpy(own), masks, _units(layer / "units.npy", len(own))
    )


def _array(path: Path, channels: int) -> Shaped[np.ndarray, "units exemplars channels h w"]:
    values = _load(path)
    if values.ndim != 5 or values.shape[2] != channels or not values.size:
        raise DissectError(
            f"{path} has the shape {values.shape}, not [units, exemplars, {channels}, h, w]"
        )
    return values


def _units(path: Path, count: int) -> Int[np.ndarray, " units"]:
    """Return the units' numbers: 0, 1, ... without a file."""
    if not path.exists():
        return np.arange(count)
    values = _load(path)
    if values.shape != (count,) or values.dtype.kind not in "iu":
        raise DissectError(f"{path} is {values.dtype} {values.shape}, not {count} whole numbers")
    return np.asarray(values, dtype=np.int64)


def _load(path: Path) -> Shaped[np.ndarray, "..."]:
    try:
        values: Shaped[np.ndarray, ...] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise MissingResource("exemplars", [str(path)], "set method.exemplars") from error
    except (ValueError, EOFError, OSError) as error:
        raise DissectError(f"{path} can't be read as an array: {error}") from error
    return values
