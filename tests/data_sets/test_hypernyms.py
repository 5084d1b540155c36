"""What is a kind of what."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipdissect.datasets.wordnet import TABLE, classes_below, of_folder, packaged, to_line
from clipdissect.errors import DissectError

DATA = """  1 licence
00000001 03 n 01 entity 0 001 ~ 00000002 n 0000 | all
00000002 03 n 02 dog 0 domestic_dog 0 001 @ 00000001 n 0000 | barks
00000003 03 n 01 dog 0 001 @ 00000001 n 0000 | a fastener | really
00000004 03 n 02 Rex 0 toy 0 002 @i 00000002 n 0000 + 00000009 v 0101 | one dog
"""
INDEX = """  1 licence
dog n 2 1 @ 2 1 00000002 00000003
domestic_dog n 1 1 @ 1 0 00000002
entity n 1 0 1 0 00000001
rex n 1 1 @ 1 0 00000004
toy n 1 1 @ 1 0 00000004
"""


def test_imagenets_dogs_and_birds() -> None:
    kinds = packaged()
    assert len(classes_below("dog.n.01", kinds)) == 118
    assert len(classes_below("n02084071", kinds)) == 118
    assert classes_below("dog.n.01", kinds) == tuple(range(151, 269))
    assert len(classes_below("bird.n.01", kinds)) == 59
    assert len(classes_below("entity.n.01", kinds)) == 1000


def test_unknown_synset_lists_close_ones() -> None:
    with pytest.raises(DissectError, match=r"unknown synset 'dog.n.1'.*dog\.n\.01"):
        packaged().find("dog.n.1")


@pytest.mark.parametrize(
    ("label", "is_dog"),
    [
        ("n02085620", True),
        ("Chihuahua", True),
        ("dog", True),
        ("toy", True),
        ("wolf", False),
        ("aquarium_fish", False),
        ("timber wolf, grey wolf, gray wolf, Canis lupus", False),
        ("big dog", True),
    ],
)
def test_labels_are_placed(label: str, is_dog: bool) -> None:
    kinds = packaged()
    dog = kinds.find("dog.n.01")
    assert kinds.place(label)
    assert any(kinds.is_below(id, dog) for id in kinds.place(label)) == is_dog


def test_what_is_not_in_the_table_has_no_place() -> None:
    assert not packaged().place("quux")
    assert not packaged().place("n00000000")


def test_wordnets_own_files(tmp_path: Path) -> None:
    (tmp_path / "data.noun").write_text(DATA)
    (tmp_path / "index.noun").write_text(INDEX)
    kinds = of_folder(tmp_path)
    assert kinds.ids == {
        "entity.n.01": "n00000001",
        "dog.n.01": "n00000002",
        "dog.n.02": "n00000003",
        "rex.n.01": "n00000004",
    }
    assert kinds.ancestors("n00000004") == {"n00000004", "n00000002", "n00000001"}
    assert kinds.place("dog") == {"n00000002", "n00000003"}
    assert kinds.place("Domestic_Dog") == {"n00000002"}


def test_table_is_whole() -> None:
    kinds = packaged()
    assert all(parent in kinds.synsets for s in kinds.synsets.values() for parent in s.parents)
    lines = TABLE.read_text("utf-8").splitlines()
    assert [to_line(s) for s in kinds.synsets.values()] == lines
