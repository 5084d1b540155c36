"""Images of texts drawn as the scenes of `synthetic_broden`, full of the thing that is named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, islice
from typing import ClassVar

import numpy as np
from jaxtyping import Bool
from PIL import Image

from clipdissect.datasets.places365 import match_key
from clipdissect.errors import DissectError
from clipdissect.images.decode import decoder_version
from clipdissect.probe import Probe
from clipdissect.probe.scenes import (
    NAMES,
    PLAIN,
    RADII,
    SHAPES,
    TEXTURES,
    VERSION,
    Painter,
    Scene,
    SceneMix,
    Sources,
    find_sources,
)
from clipdissect.probe.synthetic import MAX_SIZE, MIN_SIZE
from clipdissect.utils import hashing
from clipdissect.utils.type_checks import check_range

RENDERED_VERSION = 1  # increment when the same text gives other pictures
MIN_SHARE = 0.1  # of the pixels, that show the thing
MAX_TRIES = 100  # scenes per picture
# The largest of the shapes in `synthetic_broden`, so that a unit that detects those detects these.
LARGE = (max(RADII),)


@dataclass(frozen=True)
class Subject:
    """A thing to draw: a label of `synthetic_broden` and its category."""

    category: str
    label: str

    def painter(self, size: int, seed: int, sources: Sources) -> Painter:
        """Return a painter of scenes that show the thing."""
        digest = hashing.hash_values(seed, self.category, self.label)
        return Painter(size, int(digest[:8], 16), self._sources(sources), self._mix())

    def _mix(self) -> SceneMix:
        if self.category == "object":
            return SceneMix(stamps=1.0, things=(1, 4))
        mix = SceneMix(stamps=0.0, radii=LARGE)
        if self.category == "color":
            return replace(mix, colours=(self.label,))
        if self.category == "shape":
            return replace(mix, shapes=(self.label,))
        if self.category == "texture":
            return replace(mix, textures=(self.label,), textured=1.0)
        return replace(mix, plain=0.0, things=(0, 3))

    def _sources(self, sources: Sources) -> Sources:
        """Return only the files of the thing, if it is of files."""
        if self.category == "scene":
            photographs = {n: p for n, p in sources.photographs.items() if n == self.label}
            return replace(sources, photographs=photographs)
        if self.category == "object":
            general = {n: g for n, g in sources.general.items() if self.label in (n, g)}
            return replace(sources, stamps={n: sources.stamps[n] for n in general}, general=general)
        return sources

    def mask(self, scene: Scene) -> Bool[np.ndarray, "h w"]:
        """Return the pixels of the thing; a scene's are those that nothing covers."""
        labels = {"shape": scene.shape, "texture": scene.texture, "object": scene.special}
        shown: Bool[np.ndarray, "h w"]
        if self.category == "color":
            shown = scene.color == 1 + NAMES.index(self.label)
        elif self.category == "scene":
            shown = (scene.shape == 0) & (scene.special == 0)
        else:
            shown = labels[self.category] > 0
        return shown


@dataclass(frozen=True)
class SceneReader:
    """Painter of pictures by index; unlike a closure, it can be sent to worker processes."""

    painter: Painter
    numbers: tuple[int, ...]

    def __call__(self, index: int) -> Image.Image:
        return Image.fromarray(self.painter.draw(self.numbers[index]).pixels)


@dataclass(frozen=True)
class Rendered:
    """Scenes of one colour, texture, shape, object or scene; none of other texts."""

    size: int
    images: int
    seed: int
    sources: Sources
    name: ClassVar[str] = "rendered"
    notes: ClassVar[tuple[str, ...]] = ("the images of texts are drawn, not photographed",)

    @cached_property
    def digest(self) -> str:
        versions = (VERSION, RENDERED_VERSION, decoder_version())
        settings = (self.size, self.images, self.seed, self.sources.digest())
        return hashing.hash_values("text images", self.name, versions, settings)

    @cached_property
    def subjects(self) -> dict[str, Subject]:
        """Everything that can be drawn, by `match_key`."""
        labels = {
            "scene": (PLAIN, *self.sources.photographs),
            "object": self.sources.objects,
            "shape": tuple(SHAPES),
            "texture": tuple(TEXTURES),
            "color": NAMES,
        }
        subjects = [Subject(category, label) for category in labels for label in labels[category]]
        # As in the labels of `synthetic_broden`, `red-c` is the colour.
        colours = {match_key(f"{label}-c"): Subject("color", label) for label in NAMES}
        return {match_key(subject.label): subject for subject in subjects} | colours

    def images_of(self, text: str) -> Probe | None:
        """Return pictures of which the thing covers at least a tenth; None for other texts."""
        subject = self.subjects.get(match_key(text))
        if subject is None:
            return None
        painter = subject.painter(self.size, self.seed, self.sources)
        numbers = self._numbers(subject, painter)
        identity = (self.digest, subject.category, subject.label)
        return Probe.of(
            text,
            [f"{number}.png" for number in numbers],
            SceneReader(painter, numbers),
            [hashing.hash_values(*identity, number) for number in numbers],
        )

    def _numbers(self, subject: Subject, painter: Painter) -> tuple[int, ...]:
        candidates = islice(count(), MAX_TRIES * self.images)
        shown = (n for n in candidates if subject.mask(painter.draw(n)).mean() >= MIN_SHARE)
        numbers = tuple(islice(shown, self.images))
        if len(numbers) < self.images:
            raise DissectError(
                f"only {len(numbers)} of {MAX_TRIES * self.images} scenes "
                f"show enough of {subject.label}: lower text_images.images"
            )
        return numbers


def rendered(
    size: int = 112,
    images: int = 50,
    seed: int = 0,
    photographs: bool = True,
    stamps: str = "auto",
) -> Rendered:
    """Draw scenes full of a colour, texture, shape, object or scene of `synthetic_broden`.

    Args:
        size: of the images, in pixels.
        images: number of images per text.
        seed: of the scenes.
        photographs, stamps: see `synthetic_broden`.
    """
    check_range("text_images.size", size, MIN_SIZE, MAX_SIZE)
    check_range("text_images.images", images, 1)
    check_range("text_images.seed", seed, 0)
    return Rendered(size, images, seed, find_sources(photographs, stamps, "text_images"))
