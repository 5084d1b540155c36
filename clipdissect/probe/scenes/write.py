"""Writing scenes in Broden's layout."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image

from clipdissect.errors import DissectError
from clipdissect.probe.scenes.colours import NAMES
from clipdissect.probe.scenes.patterns import SHAPES, TEXTURES
from clipdissect.probe.scenes.scene import VERSION, Painter, Scene
from clipdissect.probe.scenes.sources import PLAIN, Sources
from clipdissect.utils import hashing
from clipdissect.utils.files import note_use
from clipdissect.utils.paths import cache_dir

log = logging.getLogger(__name__)

FOLDER = "synthetic_broden"
LARGEST = 1024


def made(
    images: int, seed: int, size: int, sources: Sources, root: str | Path | None = None
) -> Path:
    """The folder of these scenes, written now if it isn't there.

    It is named after what it holds, and appears whole or not at all: several processes may ask for
    it at once.

    Args:
        images: how many.
        seed: of the scenes; the first scenes of a larger set are those of a smaller one.
        size: of the square images and masks, in pixels.
        sources: photographs and stamps.
        root: where to put it; by default `synthetic_broden` in the user cache.

    Raises:
        DissectError: a number out of range, or a folder that can't be written.
    """
    if images < 1 or seed < 0 or not 16 <= size <= LARGEST:
        raise DissectError(
            f"synthetic_broden takes images >= 1, seed >= 0 and a size of 16 to {LARGEST}; got "
            f"{images}, {seed} and {size}"
        )
    base = Path(root).expanduser() if root else cache_dir() / FOLDER
    folder = base / hashing.hash_values(
        "synthetic broden", VERSION, images, seed, size, sources.digest()
    )
    if folder.is_dir():
        note_use(folder)
        return folder
    try:
        base.mkdir(parents=True, exist_ok=True)
        with FileLock(base / f".{folder.name}.lock"):
            if not folder.is_dir():  # another process may have been faster
                _write_whole(folder, images, seed, size, sources)
    except OSError as error:
        raise DissectError(f"can't write the scenes to {base}: {error.strerror}") from error
    return folder


def write(folder: Path, images: int, seed: int, size: int, sources: Sources) -> None:
    """Write scenes into an empty folder; see `made` for the arguments.

    Raises:
        OSError: it can't be written.
    """
    labels = Labels.of(sources)
    painter = Painter(size, seed, sources)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(images):
        scene = painter.draw(number)
        rows.append(_write_scene(folder / "images", number, scene, labels, size))
    pd.DataFrame(rows).to_csv(folder / "index.csv", index=False, lineterminator="\n")
    labels.write(folder, images, size * size)


def _write_whole(folder: Path, images: int, seed: int, size: int, sources: Sources) -> None:
    log.info("drawing %d scenes of %d x %d pixels, once", images, size, size)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder.parent))
    try:
        unfinished.chmod(0o755)
        write(unfinished, images, seed, size, sources)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@dataclass
class Labels:
    """The labels of all categories, numbered through from 1, and how often each occurs.

    Args:
        names: category to its labels.
        images: images that show a label, by number.
        pixels: pixels that show it.
    """

    names: Mapping[str, tuple[str, ...]]
    images: Counter[int] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)

    @classmethod
    def of(cls, sources: Sources) -> Labels:
        """All that scenes of these sources can show; colours end in `-c` and scenes in `-s`."""
        names = {
            "color": tuple(f"{name}-c" for name in NAMES), "object": sources.objects,
            "shape": tuple(SHAPES), "texture": tuple(TEXTURES),
            "scene": tuple(f"{name}-s" for name in (PLAIN, *sorted(sources.photographs))),
        }  # fmt: skip
        return cls({category: own for category, own in names.items() if own})

    def first(self, category: str) -> int:
        """The number of a category's first label."""
        before = list(self.names).index(category)
        return 1 + sum(len(own) for own in list(self.names.values())[:before])

    def count(self, numbers: np.ndarray) -> None:
        """Count an image's labels, layers of which may say the same of a pixel."""
        found, pixels = np.unique(numbers[numbers > 0], return_counts=True)
        self.images.update(found.tolist())
        self.pixels.update(dict(zip(found.tolist(), pixels.tolist(), strict=True)))

    def write(self, folder: Path, images: int, size: int) -> None:
        """`category.csv`, `label.csv` and `c_*.csv`."""
        categories, labels = [], []
        for category, names in self.names.items():
            first = self.first(category)
            own = [
                {"code": code, "number": number, "name": name, "frequency": self.images[number],
                 "coverage": round(self.pixels[number] / size, 6)}
                for code, (number, name) in enumerate(enumerate(names, first), 1)
            ]  # fmt: skip
            _table(folder / f"c_{category}.csv", own)
            last = first + len(names) - 1
            categories.append({"name": category, "first": first, "last": last,
                               "count": len(names), "frequency": images})  # fmt: skip
            labels += [
                {"number": row["number"], "name": row["name"],
                 "category": f"{category}({row['frequency']})", "frequency": row["frequency"],
                 "coverage": row["coverage"], "syns": ""}
                for row in own
            ]  # fmt: skip
        _table(folder / "category.csv", categories)
        _table(folder / "label.csv", [
            {"number": 0, "name": "-", "category": "", "frequency": 0, "coverage": 0, "syns": ""},
            *labels,
        ])  # fmt: skip


def _write_scene(
    folder: Path, number: int, scene: Scene, labels: Labels, size: int
) -> dict[str, object]:
    """Write an image and its masks; its row of the index."""
    name = f"scene_{number:06d}"
    Image.fromarray(scene.pixels).save(folder / f"{name}.png", compress_level=1)
    cells: dict[str, object] = {
        "image": f"{name}.png", "split": "val" if number % 10 == 9 else "train",
        "ih": size, "iw": size, "sh": size, "sw": size,
    }  # fmt: skip
    layers = {
        "color": [scene.color], "object": [scene.special, scene.general], "shape": [scene.shape],
        "texture": [scene.texture],
    }  # fmt: skip
    for category in labels.names:
        first = labels.first(category)
        if category == "scene":
            cells[category] = first + labels.names[category].index(f"{scene.scene}-s")
            labels.count(np.full((size, size), cells[category]))
            continue
        numbered = [np.where(layer > 0, layer + first - 1, 0) for layer in layers[category]]
        labels.count(_once(numbered))
        cells[category] = ";".join(_write_masks(folder, f"{name}_{category}", numbered))
    return cells


def _once(layers: list[np.ndarray]) -> np.ndarray:
    """The layers, with what a later one repeats of an earlier one left out."""
    kept = [layers[0]]
    for layer in layers[1:]:
        kept.append(np.where(np.any([layer == other for other in kept], axis=0), 0, layer))
    return np.stack(kept)


def _write_masks(folder: Path, name: str, layers: list[np.ndarray]) -> Iterable[str]:
    for place, layer in enumerate(layers):
        file = f"{name}.png" if place == 0 else f"{name}_{place}.png"
        pixels = np.zeros((*layer.shape, 3), dtype=np.uint8)
        pixels[..., 0], pixels[..., 1] = layer % 256, layer // 256
        Image.fromarray(pixels).save(folder / file)
        yield file


def _table(file: Path, rows: list[dict[str, object]]) -> None:
    pd.DataFrame(rows).to_csv(file, index=False, lineterminator="\n")
