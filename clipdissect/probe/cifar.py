"""CIFAR-10 and CIFAR-100 as probes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from clipdissect.datasets import cifar as files
from clipdissect.datasets.cifar import CIFAR10, CIFAR100, Layout
from clipdissect.errors import DissectError, MissingResource
from clipdissect.images.decode import Picture
from clipdissect.probe.base import Probe
from clipdissect.probe.options import ProbeOptions, not_empty
from clipdissect.utils import hashing

SHAPE = (3, 32, 32)


@dataclass(frozen=True, eq=False)
class ArrayReader:
    """Images that lie in memory."""

    pixels: UInt8[np.ndarray, "images 3 h w"]
    decode: str = "pil"

    def __call__(self, index: int) -> Picture:
        pixels = self.pixels[index]
        if self.decode == "fast":
            return torch.from_numpy(pixels.copy())
        return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def cifar100_train(
    root: str | None = None,
    download: bool = False,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    decode: str = "pil",
) -> Probe:
    """The 50,000 training images of CIFAR-100, 32 pixels square, labelled with 100 classes.

    Told apart by the digests of their files and their place in them. In memory: 154 MB.

    Args:
        root: the folder that holds torchvision's `cifar-100-python`; by default one of the data
            folders, `$CLIPDISSECT_DATA` and the user cache's.
        download: get it if it isn't there (169 MB), into `root` or the first data folder.
        limit, sample, seed, decode: see `ProbeOptions`.

    Raises:
        MissingResource: the files aren't there, or can't be downloaded.
        DissectError: damaged files; a value that isn't allowed.

    Source:
        Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    choices = ProbeOptions(limit, sample, seed, decode=decode)
    return _probe("cifar100_train", CIFAR100, True, root, download, choices)


def cifar100_test(
    root: str | None = None,
    download: bool = False,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    decode: str = "pil",
) -> Probe:
    """The 10,000 test images of CIFAR-100; otherwise as `cifar100_train`."""
    choices = ProbeOptions(limit, sample, seed, decode=decode)
    return _probe("cifar100_test", CIFAR100, False, root, download, choices)


def cifar10_train(
    root: str | None = None,
    download: bool = False,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    decode: str = "pil",
) -> Probe:
    """The 50,000 training images of CIFAR-10 (`cifar-10-batches-py`), otherwise as
    `cifar100_train`."""
    choices = ProbeOptions(limit, sample, seed, decode=decode)
    return _probe("cifar10_train", CIFAR10, True, root, download, choices)


def cifar10_test(
    root: str | None = None,
    download: bool = False,
    limit: int | None = None,
    sample: int | None = None,
    seed: int = 0,
    decode: str = "pil",
) -> Probe:
    """The 10,000 test images of CIFAR-10; otherwise as `cifar10_train`."""
    choices = ProbeOptions(limit, sample, seed, decode=decode)
    return _probe("cifar10_test", CIFAR10, False, root, download, choices)


def _probe(
    name: str, layout: Layout, train: bool, root: str | None, download: bool, choices: ProbeOptions
) -> Probe:
    not_empty(root=root)
    folder = _folder(layout, root, download)
    classes = files.class_names(layout, folder)
    batches = [_batch(folder / file, layout) for file in layout.files(train)]
    pixels = np.concatenate([pixels for pixels, *_ in batches])
    numbers = [number for _, numbers, _ in batches for number in numbers]
    identities = [f"{own} {row}" for p, _, own in batches for row in range(len(p))]
    if not all(0 <= n < len(classes) for n in numbers):
        raise DissectError(f"{folder} has label numbers without a name")
    chosen = list(choices.pick(len(pixels)))
    split = "train" if train else "test"
    return Probe.of(
        name,
        [f"{split}/{i:05d}" for i in chosen],
        ArrayReader(pixels[chosen], choices.decode),
        choices.identities([identities[i] for i in chosen], are_files=False),
        labels=tuple(classes[numbers[i]] for i in chosen),
    )


def _folder(layout: Layout, root: str | None, download: bool) -> Path:
    try:
        return files.find(layout, root)
    except MissingResource:
        if not download:
            raise
    files.download(layout, root)
    return files.find(layout, root)


def _batch(path: Path, layout: Layout) -> tuple[Any, list[int], str]:
    """A file's images `[images, 3, 32, 32]`, their label numbers, and its digest."""
    found = files.load(path)
    data, numbers = found.get("data"), found.get(layout.labels)
    size = int(np.prod(SHAPE))
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != size:
        raise DissectError(f"{path} has no images of {size} bytes each")
    if not isinstance(numbers, list) or len(numbers) != len(data):
        raise DissectError(f"{path} must have one of {layout.labels} for each image")
    return data.reshape(-1, *SHAPE), [int(n) for n in numbers], hashing.hash_file(path)
