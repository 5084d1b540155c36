"""Crops of the photographs that scikit-image and scikit-learn ship."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from clipdissect.errors import MissingResource
from clipdissect.images.decode import SUFFIXES, decoder_version, open_rgb
from clipdissect.probe.base import Probe
from clipdissect.probe.options import ProbeOptions
from clipdissect.utils import hashing
from clipdissect.utils.extras import install

FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}  # of packages
# Documents, diagrams and test patterns: not photographs.
_OTHERS = """chessboard_GRAY chessboard_RGB color horse logo microaneurysms multipage multipage_rgb
    no_time_for_that_tiny page phantom text"""
NOT_PHOTOS = frozenset(_OTHERS.split())
MIN_SIDE = 96

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class CropReader:
    crops: tuple[tuple[Path, Box], ...]

    def __call__(self, index: int) -> Image.Image:
        file, box = self.crops[index]
        return _photo(file).crop(box)


def photos(
    limit: int | None = None, sample: int | None = None, seed: int = 0, on_error: str = "skip"
) -> Probe:
    """Use square crops of a few dozen packaged photographs: small, weaker than `stamps`.

    Args:
        limit, sample, seed, on_error: see `ProbeOptions`.
    """
    return crops_of_photos(ProbeOptions(limit, sample, seed, on_error=on_error))


def crops_of_photos(options: ProbeOptions, notes: tuple[str, ...] = ()) -> Probe:
    all_crops = [(file, box) for file in files() for box in boxes(*_size(file))]
    crops = tuple(all_crops[i] for i in options.pick(len(all_crops)))
    digests = {file: hashing.hash_file(file) for file, _ in crops}
    return Probe.of(
        "photos",
        [f"{file.name}@{left},{top},{right - left}" for file, (left, top, right, _) in crops],
        CropReader(crops),
        [f"{decoder_version()} {digests[file]} {box}" for file, box in crops],
        on_error=options.on_error,
        notes=notes,
    )


def boxes(width: int, height: int) -> list[Box]:
    """Return half-overlapping squares of 1, 1/2, 1/3 of the shorter side, from `MIN_SIDE`."""
    squares: list[Box] = []
    for divisor in (1, 2, 3):
        side = min(width, height) // divisor
        if side < MIN_SIDE:
            continue
        step = side if divisor == 1 else side // 2
        for top in range(0, height - side + 1, step):
            squares += [(x, top, x + side, top + side) for x in range(0, width - side + 1, step)]
    return squares


def files() -> list[Path]:
    photographs: list[Path] = []
    for package, below in FOLDERS.items():
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        root = Path(spec.submodule_search_locations[0]) / below
        entries = sorted(root.iterdir()) if root.is_dir() else []
        photographs += [f for f in entries if f.suffix in SUFFIXES and f.stem not in NOT_PHOTOS]
    if not photographs:
        raise MissingResource(
            "packaged photographs",
            list(FOLDERS),
            f"{install('offline')}, which brings scikit-image and scikit-learn",
        )
    return photographs


def _size(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.width, image.height


@lru_cache(maxsize=2)
def _photo(file: Path) -> Image.Image:
    # Neighbouring crops share a file, which is then decoded once.
    return open_rgb(file)
