"""Images of texts: which images each source finds, and which it refuses."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from dense import write_dense
from PIL import Image

from clipdissect import probe, text_images
from clipdissect.errors import DissectError, MissingResource
from clipdissect.probe.scenes import NAMES, SHAPES, TEXTURES
from clipdissect.text_images.rendered import MIN_SHARE


def write(folder: Path, count: int = 3, shade: int = 0) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (shade, 10 * number, 0)).save(folder / f"{number}.png")


def names_of(source: text_images.TextImages, text: str) -> list[str] | None:
    images = source.images_of(text)
    return None if images is None else list(images.images)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("red apple", "green_apple", "sports-car", "Zebra", "cat_dog", "Tree", "tree"):
        write(tmp_path / "root" / name)
    (tmp_path / "root" / "empty").mkdir()
    write(tmp_path / "outside")
    write(tmp_path / "root" / ".hidden")
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("red apple", "red apple"),
        ("green apple", "green_apple"),
        ("sports car", "sports-car"),
        ("zebra", "Zebra"),
        ("Red Apple", "red apple"),
        ("Sports car", "sports-car"),
        ("cat/dog", "cat_dog"),
        ("tree", "tree"),
        ("Tree", "Tree"),
        ("TREE", None),  # ambiguous
        ("empty", None),
        ("lion", None),
        ("", None),
        (".", None),
        ("..", None),
        ("../outside", None),
        ("../root/tree", None),
        (".hidden", None),
    ],
)
def test_folders_of_texts(root: Path, text: str, name: str | None) -> None:
    found = names_of(text_images.build("folder", root=str(root)), text)
    assert found == (None if name is None else [f"{name}/{n}.png" for n in range(3)])


def test_absolute_paths_are_no_texts(root: Path) -> None:
    source = text_images.build("folder", root=str(root))
    assert source.images_of(str(root.parent / "outside")) is None
    assert source.images_of(str(root / "tree")) is None


def test_folders_have_a_limit_notes_and_a_digest(root: Path) -> None:
    source = text_images.build("folder", root=str(root), limit=2)
    assert names_of(source, "zebra") == ["Zebra/0.png", "Zebra/1.png"]
    (note,) = source.notes
    assert "Tree, tree (1 such groups)" in note
    same = text_images.build("folder", root=str(root), limit=2)
    assert source.digest == same.digest
    Image.new("RGB", (9, 9)).save(root / "Zebra" / "1.png")
    assert text_images.build("folder", root=str(root), limit=2).digest != source.digest


def test_equal_file_names_are_different_images(root: Path) -> None:
    source = text_images.build("folder", root=str(root))
    first, second = source.images_of("tree"), source.images_of("zebra")
    assert first is not None and second is not None
    assert not set(first.identities or ()) & set(second.identities or ())


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(MissingResource, match=r"set text_images\.root to a folder with one"):
        text_images.build("folder", root=str(tmp_path / "absent"))
    write(tmp_path / "flat")
    with pytest.raises(DissectError, match=r"has no folders: text_images\.root must have one"):
        text_images.build("folder", root=str(tmp_path / "flat"))
    with pytest.raises(DissectError, match=r"is a file; text_images\.root"):
        text_images.build("folder", root=str(tmp_path / "flat" / "0.png"))
    with pytest.raises(DissectError, match=r"text_images\.root is empty"):
        text_images.build("folder", root=" ")
    with pytest.raises(DissectError, match=r"text_images\.limit is 0"):
        text_images.build("folder", root=str(tmp_path), limit=0)
    with pytest.raises(DissectError, match=r"unknown text_images 'foldr'\. Did you mean folder"):
        text_images.build("foldr")
    assert text_images.build("none") is None


def test_images_of_a_class(tmp_path: Path) -> None:
    write(tmp_path / "classes" / "tabby_cat", 4)
    write(tmp_path / "classes" / "dog", 2)
    given = {"name": "folder", "root": str(tmp_path / "classes"), "labels": "folders"}
    source = text_images.build("labelled", probe=given, limit=3)
    assert names_of(source, "Tabby cat") == [f"tabby_cat/{n}.png" for n in range(3)]
    assert names_of(source, "dog") == ["dog/0.png", "dog/1.png"]
    assert source.images_of("cat") is None
    other = text_images.build("labelled", probe={**given, "labels": "none"})
    with pytest.raises(DissectError, match="probe classes has neither labels nor masks"):
        other.images_of("dog")


def test_images_of_a_concept_are_those_that_it_covers_most_of(tmp_path: Path) -> None:
    write_dense(tmp_path / "dense", images=16)
    dense = probe.build("broden", root=str(tmp_path / "dense"))
    assert dense.masks is not None
    shares: dict[str, dict[int, float]] = {"door": {}, "red": {}, "coast": {}}
    for image in range(len(dense)):
        for number, mask in dense.masks.read(image).concepts().items():
            text = dense.masks.concepts[number].text.removesuffix("-c")
            if text in shares:  # a door is an object and a part
                shares[text][image] = max(float(mask.mean()), shares[text].get(image, 0))
    source = text_images.build("labelled", probe=dense, limit=3)
    for text, of_text in shares.items():
        best = sorted(of_text, key=lambda image: (-of_text[image], image))[:3]
        assert names_of(source, text) == [dense.images[image] for image in sorted(best)]
    assert names_of(source, "red-c") == names_of(source, "red")


def test_the_runs_probe_is_bound_later(tmp_path: Path) -> None:
    write(tmp_path / "one" / "dog", 2)
    write(tmp_path / "two" / "dog", 1, shade=9)
    one, two = (
        probe.build("folder", root=str(tmp_path / name), labels="folders")
        for name in ("one", "two")
    )
    source = text_images.build("labelled")
    with pytest.raises(DissectError, match=r"set text_images\.probe"):
        source.images_of("dog")
    bound = text_images.bind(source, one)
    assert names_of(bound, "dog") == ["dog/0.png", "dog/1.png"]
    assert text_images.bind(bound, two) is bound
    assert text_images.bind(source, two).digest != bound.digest
    other = text_images.build("folder", root=str(tmp_path / "one"))
    assert text_images.bind(other, two) is other


def drawn(images: int = 6, **options: object) -> text_images.TextImages:
    values = {"size": 48, "photographs": False, "stamps": "none", **options}
    return text_images.build("rendered", images=images, **values)


@pytest.mark.parametrize("text", ["red", "Pink-c", "star", "polka dotted", "plain"])
def test_drawn_images_show_the_thing(text: str) -> None:
    source = drawn()
    images = source.images_of(text)
    assert images is not None and len(images) == 6
    subject = source.subjects[images.name.lower().replace("-", " ")]
    labels = {"color": NAMES, "shape": tuple(SHAPES), "texture": tuple(TEXTURES)}
    for index in range(6):
        scene = images.read.painter.draw(images.read.numbers[index])
        assert (np.asarray(images.read(index)) == scene.pixels).all()
        if subject.category == "scene":
            assert scene.scene == "plain"
            continue
        number = 1 + labels[subject.category].index(subject.label)
        layer = getattr(scene, subject.category)
        assert (layer == number).mean() >= MIN_SHARE
        if subject.category != "color":  # nothing else of the kind
            assert set(np.unique(layer)) == {0, number}


def test_drawn_stamps_and_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("animals/cats", "animals/dogs", "food"):
        (tmp_path / "stamps" / name).mkdir(parents=True)
        for n in range(4):
            shade = 255 if name.endswith("dogs") else 100
            Image.new("RGBA", (40, 40), (shade, n, 90, 255)).save(
                tmp_path / "stamps" / name / f"{n}.png"
            )
    Image.new("RGB", (80, 60), (1, 2, 250)).save(tmp_path / "sea.png")
    monkeypatch.setattr("clipdissect.probe.scenes.find_stamps", lambda: tmp_path / "stamps")
    monkeypatch.setattr("clipdissect.probe.scenes.photograph_files", lambda: [tmp_path / "sea.png"])
    source = drawn(photographs=True, stamps="auto")
    for text, stamps in {"dogs": {"dogs"}, "animals": {"cats", "dogs"}, "food": {"food"}}.items():
        images = source.images_of(text)
        assert images is not None
        painter = images.read.painter
        assert set(painter.sources.stamps) == stamps
        scene = painter.draw(images.read.numbers[0])
        assert (scene.special > 0).mean() >= MIN_SHARE
        assert not scene.shape.any()
    sea = source.images_of("sea")
    assert sea is not None
    blue = [(np.asarray(sea.read(i))[..., 2] > 200).mean() for i in range(len(sea))]
    assert min(blue) > MIN_SHARE
    assert {sea.read.painter.draw(n).scene for n in sea.read.numbers} == {"sea"}


def test_drawn_images_are_the_same_each_time_and_differ_by_seed() -> None:
    first, again, other = (drawn(seed=seed).images_of("ring") for seed in (0, 0, 1))
    assert first is not None and again is not None and other is not None
    assert first.digest == again.digest != other.digest
    pixels = [np.asarray(images.read(0)) for images in (first, again, other)]
    assert (pixels[0] == pixels[1]).all()
    assert (pixels[0] != pixels[2]).any()
    assert len({np.asarray(first.read(i)).tobytes() for i in range(6)}) == 6
    sent = pickle.loads(pickle.dumps(first.read))  # noqa: S301 - as worker processes get it
    assert (np.asarray(sent(3)) == np.asarray(first.read(3))).all()
    assert drawn().images_of("zebra") is None


def test_settings_of_drawn_images() -> None:
    with pytest.raises(DissectError, match=r"text_images\.size is 4; it must be 16 to 1024"):
        drawn(size=4)
    with pytest.raises(DissectError, match=r"text_images\.stamps is 'some'"):
        drawn(stamps="some")
    with pytest.raises(DissectError, match=r"text_images\.images is 0"):
        drawn(images=0)
