"""Values of concepts per image: labels, hypernyms, and an encoder's similarities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dense import write_dense
from test_invert import write_classes
from tiny import COLOURS, ColourEncoder, ColourNet, preprocess

from clipdissect import concepts, probe
from clipdissect.capture.capture import capture
from clipdissect.capture.features import CapturedFeatures
from clipdissect.capture.settings import Settings
from clipdissect.datasets.class_names import imagenet_names
from clipdissect.datasets.wordnet import Synset, WordNet, packaged
from clipdissect.encoder import Encoder
from clipdissect.encoder.calibration import PUBLISHED
from clipdissect.errors import DissectError
from clipdissect.method import Job
from clipdissect.method import image_concepts as module
from clipdissect.method.image_concepts import (
    GUESSED,
    ImageConcepts,
    _fitted,
    image_concepts,
    needs_of,
    with_hypernyms,
)
from clipdissect.probe.image_labels import ImageLabels
from clipdissect.store import Store
from clipdissect.targets import Target

SETTINGS = Settings(device="cpu", workers=0)


def of(
    images: probe.Probe, folder: Path, encoder: Encoder | None = None
) -> tuple[Job, CapturedFeatures]:
    target = Target("tiny", ColourNet(), preprocess(), ("conv",))
    texts = concepts.resolve(list(COLOURS))
    job = Job(target, images, texts, encoder, settings=SETTINGS, store=Store(folder / "store"))
    return job, capture(target, target.layers, encoder, images, job.store, SETTINGS)


def by_name(found: ImageConcepts | ImageLabels) -> dict[str, list[bool]]:
    matrix = found.shown if isinstance(found, ImageConcepts) else found.matrix
    return dict(zip(found.names, matrix.T.tolist(), strict=True))


def test_labels_are_ones(tmp_path: Path) -> None:
    images = probe.build("folder", root=str(write_classes(tmp_path / "i", 2)), labels="folders")
    found = image_concepts("labels", *of(images, tmp_path))
    assert found.names == tuple(sorted(COLOURS))
    assert (found.values == torch.eye(6).repeat_interleave(2, 0)).all()
    assert found.shown.sum() == 12
    assert found.facts == {"source": "labels"}
    assert found.vocabulary("mine").name == "labels of mine"
    assert found.vocabulary("mine").texts == found.names


def test_masks_label_the_images_that_they_are_in(tmp_path: Path) -> None:
    write_dense(tmp_path, images=5, one_size=True)
    images = probe.build("broden", root=str(tmp_path))
    assert images.masks is not None
    found = by_name(image_concepts("labels", *of(images, tmp_path)))
    assert tuple(found) == images.masks.texts
    for text, shown in found.items():
        expected = [
            any(images.masks.concepts[n].text == text for n in images.masks.read(i).concepts())
            for i in range(5)
        ]
        assert shown == expected


def small_wordnet() -> WordNet:
    """Animals, of which one lemma is a part of another's meaning, too."""
    rows = [
        ("n00001740", "entity.n.01", (), ("entity",)),
        ("n00001930", "physical_entity.n.01", ("n00001740",), ("physical entity",)),
        ("n1", "animal.n.01", ("n00001930",), ("animal",)),
        ("n2", "dog.n.01", ("n1",), ("dog", "domestic dog")),
        ("n3", "poodle.n.01", ("n2",), ("poodle",)),
        ("n4", "cat.n.01", ("n1",), ("cat",)),
        ("n5", "caterpillar.n.02", ("n00001930",), ("caterpillar", "cat")),
        ("n6", "church.n.01", ("n00001740",), ("church",)),
        ("n7", "church.n.02", ("n9",), ("church",)),
        ("n8", "dog.n.09", ("n9",), ("dog",)),
        ("n9", "building.n.01", ("n00001930",), ("building",)),
    ]
    return WordNet([Synset(*row) for row in rows], "by hand")


def labels_of(*names: str, images: int = 0) -> ImageLabels:
    matrix = torch.zeros(max(images, len(names)), len(names), dtype=torch.bool)
    matrix[: len(names)] = torch.eye(len(names), dtype=torch.bool)
    return ImageLabels(names, matrix)


def test_hypernyms_by_hand() -> None:
    found = by_name(with_hypernyms(labels_of("poodle", "cat", "church", "red-c"), small_wordnet()))
    # `dog` has the same images as poodle, `entity` as `physical entity`: the most specific stays.
    # `building` has church's images alone; a church is a building before it is an institution.
    assert found == {
        "poodle": [True, False, False, False],
        "cat": [False, True, False, False],
        "church": [False, False, True, False],
        "red-c": [False, False, False, True],
        "animal": [True, True, False, False],
        "physical entity": [True, True, True, False],
    }


def test_a_label_above_others_has_their_images() -> None:
    found = by_name(with_hypernyms(labels_of("dog", "poodle", "cat", images=4), small_wordnet()))
    assert found == {
        "dog": [True, True, False, False],
        "poodle": [False, True, False, False],
        "cat": [False, False, True, False],
        "animal": [True, True, True, False],
    }


def test_what_all_images_show_is_left_out() -> None:
    found = by_name(with_hypernyms(labels_of("dog", "cat"), small_wordnet()))
    assert list(found) == ["dog", "cat"]


def test_names_that_are_others_are_those_of_synsets() -> None:
    nouns = small_wordnet()
    twice = [*nouns.synsets.values(), Synset("n10", "animal.n.02", ("n00001740",), ("animal",))]
    twice += [Synset(f"n{i}", f"toy{i}.n.01", ("n10",), (f"toy{i}",)) for i in (11, 12)]
    found = with_hypernyms(labels_of("poodle", "cat", "toy11", "toy12"), WordNet(twice, "by hand"))
    assert set(found.names[4:]) == {"animal", "animal.n.02"}
    assert by_name(found)["animal"] == [True, True, False, False]
    # A label is what its images show, even if it names something else.
    odd = with_hypernyms(labels_of("poodle", "cat", "animal", "red"), WordNet(twice, "by hand"))
    assert len(set(odd.names)) == len(odd.names)


def test_no_label_is_an_english_noun() -> None:
    with pytest.raises(DissectError, match=r"none of the 2 labels, such as 'c1'"):
        with_hypernyms(labels_of("c1", "c2"), small_wordnet())


def test_imagenets_hypernyms() -> None:
    found = with_hypernyms(
        ImageLabels(imagenet_names(), torch.eye(1000, dtype=torch.bool)), packaged()
    )
    sizes = dict(zip(found.names, found.matrix.sum(0).tolist(), strict=True))
    assert found.names[:1000] == imagenet_names()
    assert (sizes["dog"], sizes["bird"], sizes["animal"]) == (118, 59, 398)
    assert "entity" not in sizes  # all images
    rows = {row.tobytes() for row in found.matrix.T.numpy()}
    assert len(rows) == len(found.names)


def test_an_encoder_with_labels_is_calibrated_on_them(tmp_path: Path) -> None:
    images = probe.build("folder", root=str(write_classes(tmp_path / "i")), labels="folders")
    job, captured = of(images, tmp_path, ColourEncoder())
    found = image_concepts("encoder", job, captured)
    assert found.names == tuple(COLOURS)
    assert "fitted on labels of" in found.facts["calibration"]["source"]
    assert not found.notes
    for number, image in enumerate(captured.images):
        # Red is not shown by yellow, of cosine 0.7.
        assert found.shown[number].tolist() == [image.split("/")[0] == name for name in COLOURS]
    cosines = captured.image_embeds @ ColourEncoder().embed_texts(list(COLOURS)).T
    calibration = found.facts["calibration"]
    expected = torch.sigmoid(calibration["scale"] * (cosines + calibration["bias"]))
    assert torch.allclose(found.values, expected, atol=1e-6)


def test_an_encoder_without_labels_shows_its_most_similar_pairs(tmp_path: Path) -> None:
    images = probe.build("folder", root=str(write_classes(tmp_path / "i", 10)))
    job, captured = of(images, tmp_path, ColourEncoder())
    found = image_concepts("encoder", job, captured)
    assert found.notes == (GUESSED,)
    assert 0 < found.shown.float().mean() < 0.2
    published = replace(ColourEncoder(), name=next(iter(PUBLISHED)))
    job, captured = of(images, tmp_path, published)
    facts = image_concepts("encoder", job, captured).facts
    assert facts["calibration"]["scale"] == PUBLISHED[published.name].scale


def test_a_calibration_that_shows_nothing_is_not_used(tmp_path: Path) -> None:
    """A label of a single image leaves no concept that an image shows for certain."""
    images = probe.build("folder", root=str(write_classes(tmp_path / "i")), labels="folders")
    job, captured = of(images, tmp_path, ColourEncoder())
    embeds = captured.image_embeds
    cosines = embeds @ ColourEncoder().embed_texts(list(COLOURS)).T
    assert _fitted(job, captured, embeds, cosines) is not None
    assert _fitted(job, captured, embeds, cosines - 1) is None


@pytest.mark.parametrize("concepts", [50, 60, 64])
def test_the_guess_is_from_pairs_of_all_concepts(
    monkeypatch: pytest.MonkeyPatch, concepts: int
) -> None:
    monkeypatch.setattr(module, "SAMPLED", 5000)
    of_concepts = torch.linspace(0, 1, concepts)  # every tenth has other cosines
    of_concepts[::10] = 5
    generator = torch.Generator().manual_seed(0)
    cosines = of_concepts + torch.randn(1000, concepts, generator=generator)
    calibration = module._guessed(cosines)
    shown = float((calibration.simulate(cosines) >= 0.5).float().mean())
    assert shown == pytest.approx(0.01, rel=0.3)
    assert calibration.scale == pytest.approx(2 / float(cosines.std()), rel=0.05)


def test_needs() -> None:
    assert needs_of("labels") == needs_of("hypernyms") == ("target", "probe")
    assert needs_of("encoder") == ("target", "probe", "concepts", "encoder")
    with pytest.raises(DissectError, match=r"method\.source.*'label'"):
        needs_of("label")
