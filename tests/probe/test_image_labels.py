"""Labels of images from classes and from masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import write_colours

from clipdissect import probe as probes
from clipdissect.datasets.segmentation import Annotation, Concept, SegmentationLabels
from clipdissect.errors import DissectError
from clipdissect.probe import Probe
from clipdissect.probe.image_labels import ImageLabels, of_probe

IMAGES = ("a", "b", "c", "d")


def unread(index: int) -> None:
    raise AssertionError("labels need no pixels")


def probe(**fields: object) -> Probe:
    return Probe.of("tiny", IMAGES, unread, IMAGES, **fields)  # type: ignore[arg-type]


def with_masks() -> Probe:
    """Concepts: a red object, a door that is an object and a part, and a scene."""
    concepts = (
        Concept("color", "red-c", "red"),
        Concept("object", "door", "door"),
        Concept("part", "door", "door"),
        Concept("scene", "alley-s", "alley"),
    )
    layers = {
        "a": ([[0, 0], [0, -1]], (3,)),  # red on three of four pixels, in an alley
        "b": ([[1, -1], [-1, -1]], ()),
        "c": ([[2, 0], [-1, -1]], ()),
        "d": ([[-1, -1], [-1, -1]], ()),
    }

    def read(index: int) -> Annotation:
        pixels, scenes = layers[IMAGES[index]]
        return Annotation((2, 2), {"scene": scenes}, {"all": np.array([pixels])})

    return probe(masks=SegmentationLabels(concepts, ((2, 2),) * 4, read, str))


def test_classes_of_readable_images_in_their_order() -> None:
    labels = of_probe(probe(labels=("dog", "cat", None, "dog")), ["d", "c", "b"])
    assert labels.names == ("dog", "cat")
    assert labels.matrix.tolist() == [[True, False], [False, False], [False, True]]


def test_classes_of_a_folder(tmp_path: Path) -> None:
    write_colours(tmp_path / "warm")
    write_colours(tmp_path / "cold")
    images = probes.build("folder", root=str(tmp_path), labels="folders")
    labels = of_probe(images, images.images)
    assert labels.names == ("cold", "warm")
    assert labels.matrix.sum(0).tolist() == [24, 24]


def test_masks_show_concepts_by_their_words() -> None:
    labels = of_probe(with_masks(), IMAGES)
    assert labels.names == ("red", "door", "alley")
    assert labels.matrix.int().tolist() == [[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_masks_that_are_too_small_dont_count() -> None:
    labels = of_probe(with_masks(), ["c", "a"], min_area=0.5)
    assert labels.matrix.int().tolist() == [[0, 0, 0], [1, 0, 1]]


def test_synthetic_scenes_have_labels() -> None:
    scenes = probes.build("synthetic_broden", images=3, size=32, photographs=False, stamps="none")
    labels = of_probe(scenes, scenes.images[1:])
    assert labels.matrix.shape == (2, len(labels.names))
    assert labels.matrix[:, labels.names.index("plain")].all()
    assert scenes.masks is not None
    concepts = scenes.masks.read(1).concepts()
    shown = {scenes.masks.concepts[number].text for number in concepts}
    assert shown == {labels.names[i] for i in labels.matrix[0].nonzero()[:, 0].tolist()}


@pytest.mark.parametrize(
    ("images", "change", "message"),
    [
        (["e"], {"labels": ("dog",) * 4}, "probe tiny has no image e"),
        (["a"], {}, "probe tiny has no labels: use one with classes"),
    ],
)
def test_images_without_labels_are_errors(
    images: list[str], change: dict[str, object], message: str
) -> None:
    with pytest.raises(DissectError, match=message):
        of_probe(probe(**change), images)
    with pytest.raises(DissectError, match="min_area is 2; it must be between 0 and 1"):
        of_probe(with_masks(), IMAGES, min_area=2)


def test_texts_name_columns_by_synonyms() -> None:
    names = ("tench, Tinca tinca", "harmonica, mouth organ, harp, mouth harp", "Washington, D.C.")
    labels = ImageLabels(names, torch.zeros(1, 3, dtype=torch.bool))
    columns = {
        "tench, Tinca tinca": 0,
        "Tinca Tinca": 0,
        "mouth organ": 1,
        "harp": None,  # another class's whole name
        "washington, d.c.": 2,
        "Washington": None,
        "dog": None,
    }
    assert {text: labels.column_of(text) for text in columns} == columns


def test_names_fit_the_matrix() -> None:
    with pytest.raises(ValueError, match=r"2 names, but labels \(1, 3\)"):
        ImageLabels(("a", "b"), torch.zeros(1, 3, dtype=torch.bool))
