"""Synthetic scenes: a background, overlapping things, and labels per pixel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from clipdissect.errors import MissingResource
from clipdissect.images.decode import open_rgb
from clipdissect.probe.photos import files as photograph_files
from clipdissect.probe.stamps import fetch as fetch_stamps
from clipdissect.probe.stamps import find as find_stamps
from clipdissect.utils import hashing
from clipdissect.utils.type_checks import check_choice

VERSION = 1  # increment when a seed draws different scenes
THINGS = (3, 7)  # in a scene: from, below
RADII = (0.12, 0.17, 0.22)  # of shapes, in image sizes
STAMP = (0.36, 0.6)  # longer sides of stamps, in image sizes
PERIODS = (0.05, 0.08)  # of textures, in image sizes
TURNS = tuple(range(0, 360, 45))  # of shapes, in degrees
NOISE = 5  # grey levels by which pixels of a colour differ
SHADE = 8  # grey levels by which things of a colour differ
NOTHING = 0
LABELS = ("texture", "shape", "special", "general")
# Colours of painted things; `name_colours` recognises them, a few shades off too.
PALETTE: dict[str, tuple[int, int, int]] = {
    "black": (22, 22, 22),
    "white": (238, 238, 238),
    "grey": (128, 128, 128),
    "red": (214, 32, 32),
    "orange": (240, 140, 24),
    "yellow": (236, 222, 44),
    "green": (44, 160, 60),
    "blue": (40, 84, 216),
    "purple": (134, 52, 190),
    "pink": (236, 116, 178),
    "brown": (122, 72, 26),
}
NAMES = tuple(PALETTE)
# Upper limit of each colour's hue, in degrees.
_HUES = {
    15: "red",
    45: "orange",
    70: "yellow",
    170: "green",
    260: "blue",
    300: "purple",
    345: "pink",
    361: "red",
}
Points = Float[np.ndarray, "h w"]
Inside = Callable[[Points, Points], Bool[np.ndarray, "h w"]]
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


def find_sources(photographs: bool, which_stamps: str, group: str = "probe") -> Sources:
    """Return the available files; see `synthetic_broden` for the arguments.

    `group` is the config group whose parameters errors name.
    """
    check_choice(f"{group}.stamps", which_stamps, STAMPS)
    scenes = {path.stem: path for path in _photographs(group)} if photographs else {}
    root = None if which_stamps == "none" else find_stamps()
    if root is None and which_stamps == "fetch":
        root = fetch_stamps()
    return Sources(scenes, *(_stamps(root) if root else ({}, {})))


def _photographs(group: str) -> list[Path]:
    try:
        return sorted(photograph_files())
    except MissingResource as missing:
        raise MissingResource(
            missing.what, missing.looked, f"{missing.remedy}, or set {group}.photographs=false"
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


def _star(x: Points, y: Points) -> Bool[np.ndarray, "h w"]:
    # Five points: between a tip and a dent the edge is a straight line in polar coordinates.
    turn = np.abs((np.arctan2(x, -y) / (2 * np.pi) * 5) % 1 - 0.5) * 2  # 0 at a dent, 1 at a tip
    angle = turn * np.pi / 5
    tip, dent = 1.0, 0.42
    height = tip * np.sin(angle) + dent * np.sin(np.pi / 5 - angle) + 1e-12
    edge = tip * dent * np.sin(np.pi / 5) / height
    inside: Bool[np.ndarray, "h w"] = np.hypot(x, y) <= edge
    return inside


# Masks of points in units of the shape's radius, y downwards.
SHAPES: dict[str, Inside] = {
    "circle": lambda x, y: np.hypot(x, y) <= 0.9,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) <= 0.7,
    "triangle": lambda x, y: (y <= 0.5) & (np.abs(x) * 1.7320508 <= y + 1),
    "ring": lambda x, y: (np.hypot(x, y) <= 1) & (np.hypot(x, y) >= 0.6),
    "cross": lambda x, y: (
        (np.minimum(np.abs(x), np.abs(y)) <= 0.25) & (np.maximum(np.abs(x), np.abs(y)) <= 1)
    ),
    "star": _star,
}
# Masks of a texture's second colour, of points in units of its period.
TEXTURES: dict[str, Inside] = {
    "striped": lambda x, y: x % 1 < 0.5,
    "chequered": lambda x, y: (x % 1 < 0.5) ^ (y % 1 < 0.5),
    "polka-dotted": lambda x, y: np.hypot(x % 1 - 0.5, y % 1 - 0.5) < 0.3,
    "grid": lambda x, y: (x % 1 < 0.25) | (y % 1 < 0.25),
    "zigzagged": lambda x, y: (y + np.abs(x % 1 - 0.5)) % 1 < 0.5,
}


def points(size: int, x: float, y: float, unit: float, turn: float = 0) -> tuple[Points, Points]:
    """Return the coordinates of a square image's pixel centres around the origin `x`, `y`.

    `size`, `x`, `y` (from the left and top) and `unit` are in pixels, `turn` in degrees.
    """
    centres = np.arange(size) + 0.5
    right, down = np.meshgrid((centres - x) / unit, (centres - y) / unit)
    angle = np.deg2rad(turn)
    cos, sin = np.cos(angle), np.sin(angle)
    return right * cos + down * sin, down * cos - right * sin


def name_colours(pixels: UInt8[np.ndarray, "h w 3"]) -> Int[np.ndarray, "h w"]:
    """Return the index in `NAMES` of each pixel's colour."""
    rgb = pixels.astype(np.float64)
    brightest, darkest = rgb.max(-1), rgb.min(-1)
    saturation = (brightest - darkest) / np.maximum(brightest, 1)
    hue = _hue(rgb, brightest, brightest - darkest)
    number = np.empty(hue.shape, dtype=np.int64)
    for end, name in reversed(_HUES.items()):
        number[hue < end] = NAMES.index(name)
    # Hue alone can't separate brown (dark orange) and pink (pale red).
    is_red = number == NAMES.index("red")
    number[(hue >= 10) & (hue < 45) & (brightest < 158)] = NAMES.index("brown")
    number[is_red & (saturation < 0.55) & (brightest >= 178)] = NAMES.index("pink")
    pale = saturation < 0.2
    number[pale & (brightest < 204)] = NAMES.index("grey")
    number[pale & (brightest >= 204)] = NAMES.index("white")
    number[brightest < 51] = NAMES.index("black")
    return number


def _hue(rgb: np.ndarray, brightest: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return the hue in degrees, 0 to 360; 0 for greys."""
    red, green, blue = np.moveaxis(rgb, -1, 0)
    divisor = np.maximum(spread, 1e-9)
    sextant = np.select(
        [brightest == red, brightest == green],
        [((green - blue) / divisor) % 6, (blue - red) / divisor + 2],
        (red - green) / divisor + 4,
    )
    degrees: np.ndarray = np.where(spread > 0, 60 * sextant, 0.0)
    return degrees


@dataclass
class Scene:
    """A picture and its labels, numbered from 1; 0 for unlabelled pixels."""

    pixels: UInt8[np.ndarray, "h w 3"]
    scene: str  # name of the background
    color: Int[np.ndarray, "h w"]
    texture: Int[np.ndarray, "h w"]
    shape: Int[np.ndarray, "h w"]
    special: Int[np.ndarray, "h w"]  # specific and general name, in `Sources.objects`
    general: Int[np.ndarray, "h w"]


@dataclass(frozen=True)
class SceneMix:
    """The contents of scenes, and how frequent they are."""

    colours: tuple[str, ...] = NAMES  # of shapes and plain backgrounds
    shapes: tuple[str, ...] = tuple(SHAPES)
    textures: tuple[str, ...] = tuple(TEXTURES)
    things: tuple[int, int] = THINGS
    radii: tuple[float, ...] = RADII
    plain: float = 0.3  # probability of a background without a photograph
    stamps: float = 0.4  # probability that a thing is a stamp, not a shape
    textured: float = 0.5  # probability that a shape has a texture


BRODEN_MIX = SceneMix()


@dataclass
class _Canvas:
    random: np.random.Generator
    pixels: Int[np.ndarray, "h w 3"]
    labels: dict[str, Int[np.ndarray, "h w"]]

    def paint(self, inside: Bool[np.ndarray, "h w"], colours: np.ndarray, **labels: int) -> None:
        """Cover pixels with colours and labels; hidden things lose their labels there."""
        self.pixels[inside] = colours
        for kind, labelled in self.labels.items():
            labelled[inside] = labels.get(kind, NOTHING)


class Painter:
    """Painter of square scenes of `size` pixels; equal numbers give equal scenes."""

    def __init__(self, size: int, seed: int, sources: Sources, mix: SceneMix = BRODEN_MIX) -> None:
        self.size, self.seed, self.sources, self.mix = size, seed, sources, mix

    def draw(self, number: int) -> Scene:
        """Draw a scene by its number, independent of the number of scenes."""
        random = np.random.default_rng([VERSION, self.seed, number])
        background, name = self._background(random)
        labels = {kind: np.full((self.size, self.size), NOTHING) for kind in LABELS}
        canvas = _Canvas(random, background.astype(np.int64), labels)
        for _ in range(random.integers(*self.mix.things)):
            if self.sources.stamps and random.random() < self.mix.stamps:
                self._add_stamp(canvas)
            else:
                self._add_shape(canvas)
        noise = random.integers(-NOISE, NOISE + 1, canvas.pixels.shape)
        pixels = (canvas.pixels + noise).clip(0, 255).astype(np.uint8)
        return Scene(pixels, name, name_colours(pixels) + 1, **labels)

    def _background(self, random: np.random.Generator) -> tuple[np.ndarray, str]:
        names = sorted(self.sources.photographs)
        if not names or random.random() < self.mix.plain:
            colour = _colour(random, self.mix.colours)
            return np.broadcast_to(colour, (self.size, self.size, 3)), PLAIN
        name = names[random.integers(len(names))]
        picture = photograph(self.sources.photographs[name])
        side = int(min(picture.size) * random.uniform(0.5, 1))
        left = int(random.integers(picture.width - side + 1))
        top = int(random.integers(picture.height - side + 1))
        box = (left, top, left + side, top + side)
        square = picture.resize((self.size, self.size), Image.Resampling.BILINEAR, box)
        return np.asarray(square), name

    def _add_shape(self, canvas: _Canvas) -> None:
        random, mix = canvas.random, self.mix
        shape = mix.shapes[random.integers(len(mix.shapes))]
        x, y = random.uniform(0, self.size, 2)
        radius = mix.radii[random.integers(len(mix.radii))] * self.size
        grid = points(self.size, x, y, radius, float(random.choice(TURNS)))
        inside = SHAPES[shape](*grid)
        number = 1 + list(SHAPES).index(shape)
        canvas.paint(inside, _colour(random, mix.colours), shape=number)
        if random.random() < mix.textured:
            texture = mix.textures[random.integers(len(mix.textures))]
            self._add_texture(canvas, inside, texture)
            canvas.labels["texture"][inside] = 1 + list(TEXTURES).index(texture)

    def _add_texture(self, canvas: _Canvas, inside: np.ndarray, texture: str) -> None:
        random = canvas.random
        period = PERIODS[random.integers(len(PERIODS))] * self.size
        x, y = random.uniform(0, period, 2)
        grid = points(self.size, x, y, period, float(random.choice(TURNS)))
        # A shape outside the image has no pixel, so any pixel serves.
        pixel = canvas.pixels[tuple(np.argwhere(inside)[0]) if inside.any() else (0, 0)]
        first = NAMES[int(name_colours(pixel.astype(np.uint8)[None, None])[0, 0])]
        second = _colour(random, [name for name in NAMES if name != first])
        canvas.pixels[inside & TEXTURES[texture](*grid)] = second

    def _add_stamp(self, canvas: _Canvas) -> None:
        random = canvas.random
        names = sorted(self.sources.stamps)
        name = names[random.integers(len(names))]
        files = self.sources.stamps[name]
        stamp = cut_out(files[random.integers(len(files))], round(STAMP[1] * self.size))
        factor = random.uniform(*STAMP) / STAMP[1]
        width, height = (max(1, int(side * factor)) for side in stamp.size)
        picture = np.asarray(stamp.resize((width, height), Image.Resampling.BOX))
        top = random.integers(-height // 4, self.size - 3 * height // 4)
        left = random.integers(-width // 4, self.size - 3 * width // 4)
        rows, columns = np.arange(self.size) - top, np.arange(self.size) - left
        y, x = rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)[None]
        within = (y == rows[:, None]) & (x == columns[None])
        inside = within & (picture[y, x, 3] >= 128)
        objects = self.sources.objects
        canvas.paint(
            inside,
            picture[y, x, :3][inside],
            special=1 + objects.index(name),
            general=1 + objects.index(self.sources.general[name]),
        )


def _colour(random: np.random.Generator, names: Sequence[str]) -> np.ndarray:
    colour = PALETTE[names[int(random.integers(len(names)))]]
    return np.array(colour) + int(random.integers(-SHADE, SHADE + 1))
