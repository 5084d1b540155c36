"""CIFAR-10 and CIFAR-100 as probes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

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
Pixels = UInt8[np.ndarray, "images 3 h w"]


@dataclass(frozen=True, eq=False)
class ArrayReader:
    pixels: Pixels
    decode: str = "pil"

    def __call__(self, index: int) -> Picture:
        pixels = self.pixels[index]
        if self.decode != "pil":
            return torch.from_numpy(pixels.copy())
        return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _cifar(layout: Layout, split: str, description: str) -> Callable[..., Probe]:

    def cifar(
        root: str | None = None,
        download: bool = False,
        limit: int | None = None,
        sample: int | None = None,
        seed: int = 0,
        decode: str = "pil",
    ) -> Probe:
        not_empty(root=root)
        options = ProbeOptions(limit, sample, seed, decode=decode)
        return _read(layout, split, _folder(layout, root, download), options)

    cifar.__name__ = cifar.__qualname__ = f"{layout.dataset.lower()}_{split}"
    cifar.__doc__ = f"""Use {description}, labelled, 32 pixels square, in memory (154 MB).

    Args:
        root: the folder of torchvision's `cifar-100-python` or `cifar-10-batches-py`; default:
            searched in the data folders.
        download: whether to download missing files (170 MB) into `root` or a data folder.
        limit, sample, seed, decode: see `ProbeOptions`.

    Source:
        Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    return cifar


cifar100_train = _cifar(CIFAR100, "train", "the 50,000 training images of CIFAR-100")
cifar100_test = _cifar(CIFAR100, "test", "the 10,000 test images of CIFAR-100")
cifar10_train = _cifar(CIFAR10, "train", "the 50,000 training images of CIFAR-10")
cifar10_test = _cifar(CIFAR10, "test", "the 10,000 test images of CIFAR-10")


def _read(layout: Layout, split: str, folder: Path, options: ProbeOptions) -> Probe:
    classes = files.class_names(layout, folder)
    batches: list[Pixels] = []
    labels: list[int] = []
    identities: list[str] = []
    for file in layout.files(split == "train"):
        pixels, numbers = _batch(folder / file, layout)
        digest = hashing.hash_file(folder / file)
        batches.append(pixels)
        labels += numbers
        identities += [f"{digest} {row}" for row in range(len(pixels))]
    if not all(0 <= label < len(classes) for label in labels):
        raise DissectError(f"{folder} has label numbers without a name")
    chosen = list(options.pick(len(labels)))
    return Probe.of(
        f"{layout.dataset.lower()}_{split}",
        [f"{split}/{i:05d}" for i in chosen],
        ArrayReader(np.concatenate(batches)[chosen], options.decode),
        options.identities([identities[i] for i in chosen], are_files=False),
        labels=tuple(classes[labels[i]] for i in chosen),
        on_gpu=options.on_gpu,
    )


def _folder(layout: Layout, root: str | None, download: bool) -> Path:
    if download:
        with suppress(MissingResource):
            return files.find(layout, root)
        files.download(layout, root)
    return files.find(layout, root)


def _batch(path: Path, layout: Layout) -> tuple[Pixels, list[int]]:
    batch = files.load(path)
    pixels, labels = batch.get("data"), batch.get(layout.labels)
    size = int(np.prod(SHAPE))
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != size:
        raise DissectError(f"{path} has no images of {size} bytes each")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise DissectError(f"{path} must have one entry of {layout.labels} per image")
    return pixels.reshape(-1, *SHAPE), [int(label) for label in labels]
