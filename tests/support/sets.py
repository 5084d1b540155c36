"""Small stand-ins for data sets, in the layouts of the real ones."""

from __future__ import annotations

import csv
import io
import pickle
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CIFAR10 = ("airplane", "automobile", "bird")
CIFAR100 = ("apple", "aquarium_fish", "baby")


def write_cifar(root: Path, protocol: int = 2, images: int = 4) -> None:
    """Both CIFARs as torchvision keeps them, a few random images a file."""
    ten, hundred = root / "cifar-10-batches-py", root / "cifar-100-python"
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    for number, name in enumerate(names):
        _dump(ten / name, _batch(number, images, "labels", 3), protocol)
    _dump(ten / "batches.meta", {"label_names": list(CIFAR10)}, protocol)
    for number, name in enumerate(("train", "test")):
        _dump(hundred / name, _batch(number, images, "fine_labels", 3), protocol)
    meta = {"fine_label_names": list(CIFAR100), "coarse_label_names": ["fruit", "fish"]}
    _dump(hundred / "meta", meta, protocol)


def _batch(seed: int, images: int, labels: str, classes: int) -> dict[str, object]:
    pixels = np.random.default_rng(seed).integers(0, 256, (images, 3072), dtype=np.uint8)
    return {"data": pixels, labels: [i % classes for i in range(images)], "batch_label": "some"}


def _dump(path: Path, content: object, protocol: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as target:
        pickle.dump(content, target, protocol=protocol)


def write_broden(root: Path) -> None:
    """Broden's layout: a scene of ADE, a texture of DTD, an image of Pascal, and a mask."""
    rows = [
        ("ade/scene.jpg", "", "1", "ade/scene_object.png"),
        ("dtd/dots.jpg", "3", "", ""),
        ("pascal/dog.jpg", "", "", "pascal/dog_object.png"),
    ]
    for name, *_ in rows:
        picture(root / "images" / name)
    picture(root / "images" / "ade" / "scene_object.png")
    _table(root / "index.csv", ("image", "texture", "scene", "object"), rows)
    labels = [
        ("0", "-", ""),
        ("1", "mountain_path-outdoor-s", "scene(1)"),
        ("2", "red-c", "color"),
        ("3", "dotted", "texture(1)"),
        ("4", "mountain", "object(3)"),
        ("5", "mountain-s", "scene(2)"),
    ]
    _table(root / "label.csv", ("number", "name", "category"), labels)


def _table(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="") as target:
        csv.writer(target).writerows([header, *rows])


def picture(path: Path, colour: tuple[int, int, int] = (40, 90, 200)) -> Path:
    """A small image file of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), colour).save(path)
    return path


def jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> bytes:
    """Bytes of a one-coloured JPEG."""
    target = io.BytesIO()
    Image.new("RGB", size, colour).save(target, "jpeg", quality=95)
    return target.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    """A tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
