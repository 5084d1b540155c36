"""A scene: a background, overlapping things, and labels per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from clipdissect.probe.scenes.colours import NAMES, PALETTE, name_colours
from clipdissect.probe.scenes.patterns import SHAPES, TEXTURES, points
from clipdissect.probe.scenes.sources import PLAIN, Sources, cut_out, photograph

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

    def __init__(self, size: int, seed: int, sources: Sources) -> None:
        self.size, self.seed, self.sources = size, seed, sources
        self.shapes, self.textures = tuple(SHAPES), tuple(TEXTURES)

    def draw(self, number: int) -> Scene:
        """Draw a scene by its number, independent of the number of scenes."""
        random = np.random.default_rng([VERSION, self.seed, number])
        background, name = self._background(random)
        labels = {kind: np.full((self.size, self.size), NOTHING) for kind in LABELS}
        canvas = _Canvas(random, background.astype(np.int64), labels)
        for _ in range(random.integers(*THINGS)):
            if self.sources.stamps and random.random() < 0.4:
                self._add_stamp(canvas)
            else:
                self._add_shape(canvas)
        noise = random.integers(-NOISE, NOISE + 1, canvas.pixels.shape)
        pixels = (canvas.pixels + noise).clip(0, 255).astype(np.uint8)
        return Scene(pixels, name, name_colours(pixels) + 1, **labels)

    def _background(self, random: np.random.Generator) -> tuple[np.ndarray, str]:
        names = sorted(self.sources.photographs)
        if not names or random.random() < 0.3:
            return np.broadcast_to(_colour(random, NAMES), (self.size, self.size, 3)), PLAIN
        name = names[random.integers(len(names))]
        picture = photograph(self.sources.photographs[name])
        side = int(min(picture.size) * random.uniform(0.5, 1))
        left = int(random.integers(picture.width - side + 1))
        top = int(random.integers(picture.height - side + 1))
        box = (left, top, left + side, top + side)
        square = picture.resize((self.size, self.size), Image.Resampling.BILINEAR, box)
        return np.asarray(square), name

    def _add_shape(self, canvas: _Canvas) -> None:
        random = canvas.random
        shape = int(random.integers(len(self.shapes)))
        x, y = random.uniform(0, self.size, 2)
        radius = RADII[random.integers(len(RADII))] * self.size
        grid = points(self.size, x, y, radius, float(random.choice(TURNS)))
        inside = SHAPES[self.shapes[shape]](*grid)
        canvas.paint(inside, _colour(random, NAMES), shape=shape + 1)
        if random.random() < 0.5:
            texture = int(random.integers(len(self.textures)))
            self._add_texture(canvas, inside, self.textures[texture])
            canvas.labels["texture"][inside] = texture + 1

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
