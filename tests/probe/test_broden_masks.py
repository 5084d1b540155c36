"""The masks of Broden's layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dense import LABELS, read_plainly, write_dense
from PIL import Image

from clipdissect import probe
from clipdissect.datasets.segmentation import Concept
from clipdissect.errors import DissectError
from clipdissect.masks import concept_masks
from clipdissect.probe.broden import label_numbers
from clipdissect.store import Store


def broden(root: Path, **options: object) -> probe.Probe:
    found: probe.Probe = probe.build("broden", root=str(root), **options)
    return found


def test_every_pixel_has_the_labels_of_the_files(tmp_path: Path) -> None:
    write_dense(tmp_path)
    images, shown, annotated = read_plainly(tmp_path)
    masks = broden(tmp_path).masks
    assert masks is not None
    assert masks.categories == tuple(LABELS)
    assert masks.concepts[0] == Concept("color", "red-c", "red-c")
    assert [c.text for c in masks.concepts if c.category == "scene"] == ["coast", "street"]
    assert masks.texts.count("door") == 1  # an object and a part
    for image in range(len(images)):
        found = masks.read(image)
        where = found.concepts()
        assert found.categories == {c for c in LABELS if annotated[c][image]}
        for number, concept in enumerate(masks.concepts):
            expected = shown[concept.category, concept.label][image]
            assert (where.get(number, np.zeros(found.size, dtype=bool)) == expected).all()


def test_labels_stay_with_their_images(tmp_path: Path) -> None:
    write_dense(tmp_path)
    whole = broden(tmp_path)
    some = whole.subset([5, 2])
    assert whole.masks is not None and some.masks is not None
    assert some.masks.sizes == (whole.masks.sizes[5], whole.masks.sizes[2])
    for own, other in ((0, 5), (1, 2)):
        expected = whole.masks.read(other).concepts()
        found = some.masks.read(own).concepts()
        assert found.keys() == expected.keys()
        assert all((found[n] == expected[n]).all() for n in found)
    drawn = broden(tmp_path, sample=3, seed=1)
    assert drawn.masks is not None and len(drawn.masks) == 3


def test_some_categories_alone(tmp_path: Path) -> None:
    write_dense(tmp_path)
    masks = broden(tmp_path).masks
    assert masks is not None
    some = masks.of_categories(["part", "scene"])
    assert [c.category for c in some.concepts] == ["part"] * 2 + ["scene"] * 2
    for image in range(len(masks)):
        texts = {masks.concepts[n] for n in masks.read(image).concepts()}
        found = {some.concepts[n] for n in some.read(image).concepts()}
        assert found == {c for c in texts if c.category in ("part", "scene")}
    with pytest.raises(DissectError, match=r"method\.categories.*Did you mean scene"):
        masks.of_categories(["scenes"])


@pytest.mark.parametrize("identity", ["stat", "content"])
def test_the_digest_notices_a_changed_mask(tmp_path: Path, identity: str) -> None:
    write_dense(tmp_path)
    first = broden(tmp_path, identity=identity)
    assert first.masks is not None
    before = first.masks.digest()
    assert broden(tmp_path, identity=identity).masks.digest() == before  # type: ignore[union-attr]
    file = next((tmp_path / "images").rglob("*_object1.png"))
    Image.new("RGB", Image.open(file).size, (1, 2, 0)).save(file)
    second = broden(tmp_path, identity=identity)
    assert first.digest == second.digest  # the images are the same
    assert second.masks is not None and second.masks.digest() != before
    copy = tmp_path.parent / f"{tmp_path.name}-copy"
    shutil.copytree(tmp_path, copy)
    if identity == "content":
        moved = broden(copy, identity=identity).masks
        assert moved is not None and moved.digest() == second.masks.digest()


@pytest.mark.parametrize(
    ("file", "category", "labels"),
    [("c_object.csv", "object", ("cat", "sky")), ("label.csv", "part", ("door", "leg"))],
)
def test_swapped_numbers_are_not_served_from_the_store(
    tmp_path: Path, file: str, category: str, labels: tuple[str, str]
) -> None:
    root, store = tmp_path / "set", Store(tmp_path / "store")
    write_dense(root)

    def pixels() -> list[int]:
        found = concept_masks(broden(root).masks, store)  # type: ignore[arg-type]
        places = [(c.category, c.label) for c in found.concepts]
        return [int(found.pixels[places.index((category, label))]) for label in labels]

    before = pixels()
    assert before == pixels() and before[0] != before[1]
    table = pd.read_csv(root / file)
    rows = [table.index[table["name"] == label][0] for label in labels]
    table.loc[rows, "number"] = table.loc[rows[::-1], "number"].to_numpy()
    table.to_csv(root / file, index=False)
    assert pixels() == before[::-1]


def test_numbers_are_red_plus_256_green_and_greys_as_they_are() -> None:
    picture = Image.new("RGB", (2, 1), (3, 2, 9))
    assert label_numbers(picture).tolist() == [[515, 515]]
    assert label_numbers(Image.new("L", (1, 1), 7)).tolist() == [[7]]
    assert label_numbers(picture.convert("P", palette=Image.Palette.ADAPTIVE)).tolist() == [
        [515] * 2
    ]


def test_a_release_without_sizes_has_images_alone(tmp_path: Path) -> None:
    write_dense(tmp_path)
    index = tmp_path / "index.csv"
    index.write_text(index.read_text().replace("sh,sw", "high,wide"))
    assert broden(tmp_path).masks is None


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("index.csv", "a/00_color0.png", "../x.png", "outside of images"),
        ("index.csv", "a/00_color0.png", "a/gone.png", "can't read the mask.*gone"),
        ("index.csv", "8,8,8,8", "8,8,4,4", "8 x 8 pixels, but the index says 4 x 4"),
        ("index.csv", "8,8,8,8", "8,8,,", "no size"),
        ("c_color.csv", "number", "n", "must have the columns number, name"),
        ("c_color.csv", "1,1,red-c", "1,x,red-c", "number 'x'"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, file: str, old: str, new: str, says: str) -> None:
    write_dense(tmp_path, seed=3)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    with pytest.raises(DissectError, match=says):
        masks = broden(tmp_path).masks
        assert masks is not None
        for image in range(len(masks)):
            masks.read(image)
