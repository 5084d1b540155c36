"""One scene: a background, several things that hide one another, and the labels of every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from clipdissect.probe.scenes.colours import NAMES, PALETTE, name_colours
from clipdissect.probe.scenes.patterns import SHAPES, TEXTURES, points
from clipdissect.probe.scenes.sources import PLAIN, Sources, cut_out, photograph

VERSION = 1  # raise it when a seed draws other scenes
THINGS = (3, 7)  # in a scene: from, to
RADII = (0.12, 0.17, 0.22)  # of things, in image sizes
STAMP = (0.36, 0.6)  # longer sides of stamps, in image sizes
PERIODS = (0.05, 0.08)  # of textures, in image sizes
TURNS = tuple(range(0, 360, 45))  # of shapes, in degrees
NOISE = 5  # grey levels by which pixels of one colour differ
SHADE = 8  # grey levels by which things of one colour differ
NOTHING = 0


@dataclass
class Scene:
    """A picture and its labels, as numbers of the names below; 0 where there is none.

    Args:
        pixels: the picture.
        scene: name of the background.
        color, texture, shape: the number, from 1, of a colour, texture or shape.
        special, general: the number, from 1, in `Sources.objects` of an object's two names.
    """

    pixels: UInt8[np.ndarray, "h w 3"]
    scene: str
    color: Int[np.ndarray, "h w"]
    texture: Int[np.ndarray, "h w"]
    shape: Int[np.ndarray, "h w"]
    special: Int[np.ndarray, "h w"]
    general: Int[np.ndarray, "h w"]


class Painter:
    """Draws scenes; one number always gives the same.

    Args:
        size: of the square picture, in pixels.
        seed: of all scenes.
        sources: photographs and stamps.
    """

    def __init__(self, size: int, seed: int, sources: Sources) -> None:
        self.size, self.seed, self.sources = size, seed, sources
        self.shapes, self.textures = tuple(SHAPES), tuple(TEXTURES)

    def draw(self, number: int) -> Scene:
        """The scene of a number: it doesn't depend on how many others there are."""
        random = np.random.default_rng([VERSION, self.seed, number])
        background, name = self._background(random)
        maps = {
            kind: np.full((self.size, self.size), NOTHING)
            for kind in ("texture", "shape", "special", "general")
        }
        canvas = background.astype(np.int64)
        for _ in range(random.integers(*THINGS)):
            if self.sources.stamps and random.random() < 0.4:
                self._stamp(random, canvas, maps)
            else:
                self._shape(random, canvas, maps)
        canvas += random.integers(-NOISE, NOISE + 1, canvas.shape)
        pixels = canvas.clip(0, 255).astype(np.uint8)
        return Scene(pixels, name, name_colours(pixels) + 1, **maps)

    def _background(self, random: np.random.Generator) -> tuple[np.ndarray, str]:
        names = sorted(self.sources.photographs)
        if not names or random.random() < 0.3:
            colour = np.array(_colour(random, NAMES))
            return np.broadcast_to(colour, (self.size, self.size, 3)).copy(), PLAIN
        name = names[random.integers(len(names))]
        picture = photograph(self.sources.photographs[name])
        side = int(min(picture.size) * random.uniform(0.5, 1))
        left = int(random.integers(picture.width - side + 1))
        top = int(random.integers(picture.height - side + 1))
        box = (left, top, left + side, top + side)
        square = picture.resize((self.size, self.size), Image.Resampling.BILINEAR, box)
        return np.asarray(square), name

    def _shape(
        self, random: np.random.Generator, canvas: np.ndarray, maps: dict[str, np.ndarray]
    ) -> None:
        kind = int(random.integers(len(self.shapes)))
        x, y = random.uniform(0, self.size, 2)
        radius = RADII[random.integers(len(RADII))] * self.size
        place = points(self.size, x, y, radius, float(random.choice(TURNS)))
        inside = SHAPES[self.shapes[kind]](*place)
        one = _colour(random, NAMES)
        canvas[inside] = one
        texture = NOTHING
        if random.random() < 0.5:
            texture = 1 + int(random.integers(len(self.textures)))
            self._weave(random, canvas, inside, self.textures[texture - 1])
        _cover(maps, inside, shape=kind + 1, texture=texture)

    def _weave(
        self, random: np.random.Generator, canvas: np.ndarray, inside: np.ndarray, texture: str
    ) -> None:
        """A second colour over a part of a thing."""
        period = PERIODS[random.integers(len(PERIODS))] * self.size
        x, y = random.uniform(0, period, 2)
        grid = points(self.size, x, y, period, float(random.choice(TURNS)))
        here = tuple(np.argwhere(inside)[0]) if inside.any() else (0, 0)
        first = NAMES[int(name_colours(canvas[here].astype(np.uint8)[None, None])[0, 0])]
        other = _colour(random, [name for name in NAMES if name != first])
        canvas[inside & TEXTURES[texture](*grid)] = other

    def _stamp(
        self, random: np.random.Generator, canvas: np.ndarray, maps: dict[str, np.ndarray]
    ) -> None:
        names = sorted(self.sources.stamps)
        name = names[random.integers(len(names))]
        files = self.sources.stamps[name]
        stamp = cut_out(files[random.integers(len(files))], round(STAMP[1] * self.size))
        factor = random.uniform(*STAMP) / STAMP[1]
        wide, high = (max(1, int(side * factor)) for side in stamp.size)
        picture = np.asarray(stamp.resize((wide, high), Image.Resampling.BOX))
        top, left = random.integers(-high // 4, self.size - 3 * high // 4), random.integers(
            -wide // 4, self.size - 3 * wide // 4)  # fmt: skip
        rows = np.arange(self.size) - top
        columns = np.arange(self.size) - left
        y, x = rows.clip(0, high - 1)[:, None], columns.clip(0, wide - 1)[None]
        within = ((rows >= 0) & (rows < high))[:, None] & ((columns >= 0) & (columns < wide))[None]
        inside = within & (picture[y, x, 3] >= 128)
        canvas[inside] = picture[y, x, :3][inside]
        number = 1 + self.sources.objects.index(name)
        general = 1 + self.sources.objects.index(self.sources.general[name])
        _cover(maps, inside, special=number, general=general)


def _colour(random: np.random.Generator, names: tuple[str, ...] | list[str]) -> np.ndarray:
    """A colour of the palette, a shade off."""
    chosen = PALETTE[names[random.integers(len(names))]]
    return np.array(chosen) + int(random.integers(-SHADE, SHADE + 1))


def _cover(maps: dict[str, np.ndarray], inside: Bool[np.ndarray, "h w"], **labels: int) -> None:
    """Label a thing's pixels; what it hides loses its labels there."""
    for kind, labelled in maps.items():
        labelled[inside] = labels.get(kind, NOTHING)
