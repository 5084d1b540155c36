"""Synthetic, densely labelled scenes in Broden's layout: a substitute for Broden."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image

from clipdissect.errors import DissectError
from clipdissect.probe.base import Probe
from clipdissect.probe.broden import read_broden
from clipdissect.probe.options import ProbeOptions, not_empty
from clipdissect.probe.scenes import (
    NAMES,
    PLAIN,
    SHAPES,
    TEXTURES,
    VERSION,
    Painter,
    Scene,
    Sources,
    find_sources,
)
from clipdissect.utils import hashing
from clipdissect.utils.files import note_use
from clipdissect.utils.paths import cache_dir
from clipdissect.utils.type_checks import check_range

log = logging.getLogger(__name__)

FOLDER = "synthetic_broden"
MIN_SIZE, MAX_SIZE = 16, 1024


def synthetic_broden(
    images: int = 1000,
    seed: int = 0,
    size: int = 112,
    photographs: bool = True,
    stamps: str = "auto",
    root: str | None = None,
    limit: int | None = None,
    sample: int | None = None,
    sample_seed: int = 0,
    identity: str = "content",
    on_error: str = "skip",
) -> Probe:
    """Draw scenes of shapes, textures and stamps on photographs, with exact masks.

    Categories: color, shape, texture, object (stamps) and scene (the photograph).

    Args:
        images: number of images.
        seed: of the scenes.
        size: of images and masks, in pixels.
        photographs: whether backgrounds are crops of photographs, not plain.
        stamps: `auto` (if installed or cached), `fetch` or `none`; changes all scenes.
        root: folder to write into; default: `synthetic_broden` in the user cache.
        limit, sample, identity, on_error: see `ProbeOptions`.
        sample_seed: of the draw of `sample`.
    """
    not_empty(root=root)
    options = ProbeOptions(limit, sample, sample_seed, identity, on_error=on_error)
    settings = SceneSettings(images, seed, size, find_sources(photographs, stamps))
    return read_broden("synthetic_broden", write_once(settings, root), options)


@dataclass(frozen=True)
class SceneSettings:
    """The scenes to draw; a larger set starts with the scenes of a smaller one."""

    images: int
    seed: int
    size: int
    sources: Sources

    def __post_init__(self) -> None:
        check_range("probe.images", self.images, 1)
        check_range("probe.seed", self.seed, 0)
        check_range("probe.size", self.size, MIN_SIZE, MAX_SIZE)


def write_once(settings: SceneSettings, root: str | Path | None = None) -> Path:
    """Return the folder of the scenes, written atomically if absent; safe across processes."""
    base = Path(root).expanduser() if root else cache_dir() / FOLDER
    images, seed, size = settings.images, settings.seed, settings.size
    key = ("synthetic broden", VERSION, images, seed, size, settings.sources.digest())
    folder = base / hashing.hash_values(*key)
    if folder.is_dir():
        note_use(folder)
        return folder
    try:
        base.mkdir(parents=True, exist_ok=True)
        with FileLock(base / f".{folder.name}.lock"):
            if not folder.is_dir():  # another process may have been faster
                log.info("drawing %d scenes of %d x %d pixels, once", images, size, size)
                _write_whole(folder, settings)
    except OSError as error:
        raise DissectError(f"can't write the scenes to {base}: {error.strerror}") from error
    return folder


def _write_whole(folder: Path, settings: SceneSettings) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
    try:
        unfinished.chmod(0o755)
        images = unfinished / "images"
        images.mkdir()
        labels = LabelCounts.of(settings.sources)
        painter = Painter(settings.size, settings.seed, settings.sources)
        numbers = range(settings.images)
        rows = [_write_scene(images, n, painter.draw(n), labels) for n in numbers]
        _write_table(unfinished / "index.csv", rows)
        labels.write(unfinished, settings.images, settings.size**2)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@dataclass
class LabelCounts:
    """Labels by category, numbered from 1 over all, with image and pixel counts."""

    names: dict[str, tuple[str, ...]]
    images: Counter[int] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, sources: Sources) -> LabelCounts:
        """Return all labels of scenes; as in Broden, colours end in `-c`, scenes in `-s`."""
        names = {
            "color": tuple(f"{name}-c" for name in NAMES),
            "object": sources.objects,
            "shape": tuple(SHAPES),
            "texture": tuple(TEXTURES),
            "scene": tuple(f"{name}-s" for name in (PLAIN, *sorted(sources.photographs))),
        }
        return cls({category: labels for category, labels in names.items() if labels})

    def first(self, category: str) -> int:
        before = list(self.names).index(category)
        return 1 + sum(len(labels) for labels in list(self.names.values())[:before])

    def count(self, numbers: np.ndarray) -> None:
        labels, counts = np.unique(numbers[numbers > 0], return_counts=True)
        self.images.update(labels.tolist())
        self.pixels.update(dict(zip(labels.tolist(), counts.tolist(), strict=True)))

    def write(self, folder: Path, images: int, image_pixels: int) -> None:
        categories: list[dict[str, object]] = []
        unlabelled = {"number": 0, "name": "-", "category": "", "frequency": 0, "coverage": 0}
        labels: list[dict[str, object]] = [{**unlabelled, "syns": ""}]
        for category, names in self.names.items():
            rows: list[dict[str, object]] = []
            first = self.first(category)
            for number, name in enumerate(names, first):
                frequency = self.images[number]
                coverage = round(self.pixels[number] / image_pixels, 6)
                row = {"number": number, "name": name}
                counts = {"frequency": frequency, "coverage": coverage}
                rows.append({"code": number - first + 1, **row, **counts})
                labels.append({**row, "category": f"{category}({frequency})", **counts, "syns": ""})
            _write_table(folder / f"c_{category}.csv", rows)
            numbers = {"first": first, "last": first + len(names) - 1, "count": len(names)}
            categories.append({"name": category, **numbers, "frequency": images})
        _write_table(folder / "category.csv", categories)
        _write_table(folder / "label.csv", labels)


def _write_scene(folder: Path, number: int, scene: Scene, labels: LabelCounts) -> dict[str, object]:
    """Write an image and its masks; return its row of the index."""
    name = f"scene_{number:06d}"
    Image.fromarray(scene.pixels).save(folder / f"{name}.png", compress_level=1)
    size = len(scene.pixels)
    row: dict[str, object] = {
        "image": f"{name}.png",
        "split": "val" if number % 10 == 9 else "train",
        **dict.fromkeys(("ih", "iw", "sh", "sw"), size),
    }
    layers = {
        "color": [scene.color],
        "object": [scene.special, scene.general],
        "shape": [scene.shape],
        "texture": [scene.texture],
    }
    for category, names in labels.names.items():
        first = labels.first(category)
        if category == "scene":
            row[category] = first + names.index(f"{scene.scene}-s")
            labels.count(np.full((size, size), row[category]))
            continue
        numbered = [np.where(layer > 0, layer + first - 1, 0) for layer in layers[category]]
        labels.count(_without_repeats(numbered))
        row[category] = ";".join(_write_masks(folder, f"{name}_{category}", numbered))
    return row


def _without_repeats(layers: list[np.ndarray]) -> np.ndarray:
    """Set labels to 0 that an earlier layer has at the same pixel."""
    distinct = [layers[0]]
    for layer in layers[1:]:
        repeated = np.any([layer == other for other in distinct], axis=0)
        distinct.append(np.where(repeated, 0, layer))
    return np.stack(distinct)


def _write_masks(folder: Path, name: str, layers: list[np.ndarray]) -> Iterator[str]:
    for number, layer in enumerate(layers):
        file = f"{name}.png" if number == 0 else f"{name}_{number}.png"
        pixels = np.zeros((*layer.shape, 3), dtype=np.uint8)
        pixels[..., 0], pixels[..., 1] = layer % 256, layer // 256
        Image.fromarray(pixels).save(folder / file)
        yield file


def _write_table(file: Path, rows: list[dict[str, object]]) -> None:
    pd.DataFrame(rows).to_csv(file, index=False, lineterminator="\n")
