"""Photographs and stamps for scenes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from clipdissect.errors import MissingResource
from clipdissect.images.decode import open_rgb
from clipdissect.probe.photos import files as photograph_files
from clipdissect.probe.stamps import fetch as fetch_stamps
from clipdissect.probe.stamps import find as find_stamps
from clipdissect.utils import hashing
from clipdissect.utils.type_checks import check_choice

STAMPS = ("auto", "fetch", "none")
MIN_STAMPS, MAX_STAMPS = 4, 8  # of a folder: worth a label, and decoded in seconds
STYLES = ("cartoon", "plastic")  # folders named by style, not by object
PLAIN = "plain"  # the scene of a background without a photograph


@dataclass(frozen=True)
class Sources:
    photographs: dict[str, Path]  # by scene name
    stamps: dict[str, tuple[Path, ...]]  # by the most specific name of the object
    general: dict[str, str]  # specific to general name, which may be the same

    def digest(self) -> str:
        """Return a hash of the photographs' bytes and of the stamps' names and sizes."""
        pictures = {name: hashing.hash_file(path) for name, path in self.photographs.items()}
        stamps = {n: [(p.name, p.stat().st_size) for p in f] for n, f in self.stamps.items()}
        return hashing.hash_values("sources 1", pictures, stamps)

    @property
    def objects(self) -> tuple[str, ...]:
        return tuple(sorted({*self.general, *self.general.values()}))


def find_sources(photographs: bool, which_stamps: str) -> Sources:
    """Return the available files; see `synthetic_broden` for the arguments."""
    check_choice("probe.stamps", which_stamps, STAMPS)
    scenes = {path.stem: path for path in _photographs()} if photographs else {}
    root = None if which_stamps == "none" else find_stamps()
    if root is None and which_stamps == "fetch":
        root = fetch_stamps()
    return Sources(scenes, *(_stamps(root) if root else ({}, {})))


def _photographs() -> list[Path]:
    try:
        return sorted(photograph_files())
    except MissingResource as missing:
        raise MissingResource(
            missing.what, missing.looked, f"{missing.remedy}, or set probe.photographs=false"
        ) from missing


def _stamps(root: Path) -> tuple[dict[str, tuple[Path, ...]], dict[str, str]]:
    files: dict[str, list[Path]] = defaultdict(list)
    general: dict[str, str] = {}
    for path in sorted(root.rglob("*.png")):
        folders = [f for f in path.relative_to(root).parts[:-1] if f not in STYLES]
        if not folders or folders[0] == "symbols":
            continue
        special = folders[min(1, len(folders) - 1)]
        files[special].append(path)
        general.setdefault(special, folders[0])
    stamps = {n: tuple(f[:MAX_STAMPS]) for n, f in files.items() if len(f) >= MIN_STAMPS}
    return stamps, {name: general[name] for name in stamps}


@lru_cache(maxsize=64)
def photograph(path: Path) -> Image.Image:
    """Decode a photograph; callers must not modify the cached image."""
    return open_rgb(path)


@lru_cache(maxsize=1024)
def cut_out(path: Path, size: int) -> Image.Image:
    """Return an RGBA stamp whose longer side is `size` pixels; must not be modified."""
    with Image.open(path) as image:
        picture = image.convert("RGBA")
    factor = size / max(picture.size)
    width, height = (max(1, round(side * factor)) for side in picture.size)
    small: Image.Image = picture.resize((width, height), Image.Resampling.BOX)
    return small
