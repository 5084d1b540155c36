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

PLACES = (("skimage", "data"), ("sklearn", "datasets/images"))
# Documents, diagrams and test patterns: not photographs.
NOT_PHOTOS = frozenset(
    [
        "chessboard_GRAY",
        "chessboard_RGB",
        "color",
        "horse",
        "logo",
        "microaneurysms",
        "multipage",
        "multipage_rgb",
        "no_time_for_that_tiny",
        "page",
        "phantom",
        "text",
    ]
)
MIN_SIDE = 96

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class CropReader:
    """Decodes a photograph and cuts one box out of it."""

    files: tuple[Path, ...]
    boxes: tuple[Box, ...]

    def __call__(self, index: int) -> Image.Image:
        return _photo(self.files[index]).crop(self.boxes[index])


def photos(
    limit: int | None = None, sample: int | None = None, seed: int = 0, on_error: str = "skip"
) -> Probe:
    """Square crops, at three scales, of a few dozen packaged photographs.

    Small and narrow: a stand-in for people without images at hand, weaker than `stamps`.
    Told apart by the files' bytes and the crops' boxes.

    Args:
        limit, sample, seed, on_error: see `ProbeOptions`.

    Raises:
        MissingResource: neither scikit-image nor scikit-learn is installed.
        DissectError: a value that isn't allowed.
    """
    choices = ProbeOptions(limit, sample, seed, on_error=on_error)
    every = [(file, box) for file in files() for box in boxes(*_size(file))]
    crops = [every[i] for i in choices.pick(len(every))]
    names = tuple(
        f"{file.name}@{left},{top},{right - left}" for file, (left, top, right, _) in crops
    )
    digests = {file: hashing.hash_file(file) for file, _ in crops}
    identities = [f"{decoder_version()} {digests[file]} {box}" for file, box in crops]
    reader = CropReader(tuple(f for f, _ in crops), tuple(b for _, b in crops))
    return Probe.of("photos", names, reader, identities, on_error=on_error)


def boxes(width: int, height: int) -> list[Box]:
    """Squares of the full, half and third of the shorter side, half overlapping, none tiny."""
    found: list[Box] = []
    for parts in (1, 2, 3):
        side = min(width, height) // parts
        if side < MIN_SIDE:
            continue
        step = side if parts == 1 else side // 2
        for top in range(0, height - side + 1, step):
            found += [(x, top, x + side, top + side) for x in range(0, width - side + 1, step)]
    return found


def files() -> list[Path]:
    """The packaged photographs.

    Raises:
        MissingResource: neither scikit-image nor scikit-learn is installed.
    """
    specs = [(find_spec(package), below) for package, below in PLACES]
    roots = [
        Path(s.submodule_search_locations[0]) / below
        for s, below in specs
        if s is not None and s.submodule_search_locations
    ]
    found = [
        f
        for root in roots
        if root.is_dir()
        for f in sorted(root.iterdir())
        if f.suffix in SUFFIXES and f.stem not in NOT_PHOTOS
    ]
    if not found:
        raise MissingResource(
            "packaged photographs",
            [package for package, _ in PLACES],
            f"{install('offline')}, which brings scikit-image and scikit-learn",
        )
    return found


def _size(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.width, image.height


@lru_cache(maxsize=2)
def _photo(file: Path) -> Image.Image:
    # Neighbouring crops come from one file: decode it once.
    return open_rgb(file)
