"""Concept sets: cleaning, files as people save them, and known lists."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import pytest
from sets import write_broden, write_cifar

from clipdissect import concepts
from clipdissect.concepts.class_names import places365_names
from clipdissect.datasets import wordnet
from clipdissect.errors import DissectError, MissingResource


def test_file_with_mark_windows_ends_blanks_and_repeats(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_bytes(b"\xef\xbb\xbfcat\r\n\r\n  sea  \x0b lion \r\ncat\r\ncaf\xc3\xa9\r\n")
    found = concepts.resolve(str(path))
    assert found.texts == ("cat", "sea lion", "café")
    assert found.dropped == {"blank": ("",), "duplicate": ("cat",)}


def test_file_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("cat\ndog\ncafé\n".encode("latin-1"))
    with pytest.raises(DissectError, match="line 3 has the byte 0xe9"):
        concepts.build("file", path=str(path))


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_empty_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "none.txt").write_text(content)
    with pytest.raises(DissectError, match="none is empty"):
        concepts.build("file", path=str(tmp_path / "none.txt"))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingResource, match=r"gone\.txt"):
        concepts.resolve(tmp_path / "gone.txt")
    with pytest.raises(DissectError, match="is a folder"):
        concepts.resolve(tmp_path)


def test_list_of_texts() -> None:
    assert concepts.resolve(["cat", "wheel", "cat"]).texts == ("cat", "wheel")
    with pytest.raises(DissectError, match="must be a list of texts; got"):
        concepts.build("list", texts=["cat", 3])


def test_order_matters_to_the_digest() -> None:
    assert concepts.resolve(["a", "b"]).digest != concepts.resolve(["b", "a"]).digest


def test_wordfreq_drops_digits_and_letters() -> None:
    pytest.importorskip("wordfreq")
    found = concepts.build("wordfreq", n=2000)
    assert all(len(text) > 1 and not any(c.isdigit() for c in text) for text in found.texts)
    assert "a" in found.dropped["one letter"]
    assert len(found) + sum(map(len, found.dropped.values())) == 2000


def test_google_20k_says_where_it_looked(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPDISSECT_DATA", str(own_cache / "mine"))
    with pytest.raises(MissingResource, match="wordfreq_20k") as caught:
        concepts.build("google_20k")
    assert len(caught.value.looked) == 2
    (own_cache / "mine" / "concepts").mkdir(parents=True)
    (own_cache / "mine" / "concepts" / "google_20k.txt").write_text("the\nof\n")
    assert concepts.build("google_20k").texts == ("the", "of")


def test_imagenet_names_equal_the_published_list(shared: Path) -> None:
    published = concepts.build("file", path=str(shared / "data" / "concepts" / "imagenet.txt"))
    ours = concepts.build("imagenet")
    assert ours.texts == published.texts
    assert len(ours) == 1000


def test_duplicates_are_kept_where_asked_for(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("arch\n\nbar\narch\n")
    kept = concepts.build("file", path=str(tmp_path / "x.txt"), duplicates="keep")
    assert kept.texts == ("arch", "bar", "arch")
    assert kept.dropped == {"blank": ("",)}
    assert concepts.build("list", texts=["a", "a"], duplicates="keep").texts == ("a", "a")
    with pytest.raises(DissectError, match="drop or keep"):
        concepts.build("list", texts=["a"], duplicates="count")


def test_what_cleaning_leaves_out_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "clipdissect"):
        concepts.build("list", texts=["a", "a", "", "b", "b"])
        concepts.build("list", texts=["a"])
    assert [r.message for r in caplog.records] == [
        "concepts list: 2 texts; left out: 2 duplicate, 1 blank"
    ]


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("google_20k", 20000, "the"),
        ("google_10k", 9894, "the"),
        ("ef_3k", 3000, "a"),
        ("broden", 1153, "wine cellar-bottle storage"),
        ("places365", 365, "airfield"),
    ],
)
def test_published_lists(
    shared: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int, first: str
) -> None:
    monkeypatch.setenv("CLIPDISSECT_DATA", str(shared / "data"))
    found = concepts.build(name)
    assert found.name == name
    assert len(found) == count
    assert found.texts[0] == first
    if name == "broden":
        assert {why: len(texts) for why, texts in found.dropped.items()} == {"duplicate": 44}
        assert len(concepts.build("broden", duplicates="keep")) == 1197
    with pytest.raises(MissingResource, match=f"fetch {name}"):
        concepts.build(name, path="gone.txt")


def test_broden_of_the_release(own_cache: Path) -> None:
    write_broden(own_cache / "data" / "broden1_224")
    expected = ("mountain path-outdoor", "red-c", "dotted", "mountain")
    assert concepts.build("broden").texts == expected
    assert concepts.build("broden").dropped == {"duplicate": ("mountain",)}
    given = concepts.build("broden", path=str(own_cache / "data" / "broden1_224"))
    assert given.texts == expected


def test_places_are_the_class_names(tmp_path: Path) -> None:
    lines = ["/a/airplane_cabin 1", "/a/apartment_building/outdoor 8", "my own place"]
    expected = ("airplane_cabin", "apartment_building/outdoor", "my own place")
    assert places365_names(lines) == expected
    (tmp_path / "x.txt").write_text("\n".join(lines))
    assert concepts.build("places365", path=str(tmp_path / "x.txt")).texts == expected


def test_cifar_classes(tmp_path: Path, own_cache: Path) -> None:
    write_cifar(tmp_path)
    expected = ("apple", "aquarium fish", "baby")
    assert concepts.build("cifar100", path=str(tmp_path)).texts == expected
    assert concepts.build("cifar100", path=str(tmp_path / "cifar-100-python")).texts == expected
    with pytest.raises(MissingResource, match="class names of CIFAR-100"):
        concepts.build("cifar100")
    write_cifar(own_cache / "data")
    assert concepts.build("cifar100").texts == expected


INDEX = """  1 This software and database is being provided to you
  2 under a licence.
'hood n 1 2 @ ; 1 0 08641944
1-hitter n 1 1 @ 1 0 00475142
a n 7 1 @ 7 0 13658027
sea_lion n 1 3 @ #m ~ 1 1 02077656
seal n 9 6 @ ~ #m #p %p + 9 3 02076196
"""


def test_wordnet_in_its_places(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wordnet, "DEBIAN", tmp_path / "debian")
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk"))
    for place in (tmp_path / "debian", own_cache / "data" / "wordnet"):
        place.mkdir(parents=True)
        (place / "index.noun").write_text(INDEX)
        found = concepts.build("wordnet_nouns")
        assert found.texts == ("'hood", "sea lion", "seal")
        assert found.dropped == {"digit": ("1-hitter",), "one letter": ("a",)}
        (place / "index.noun").unlink()
    (tmp_path / "nltk" / "corpora").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "nltk" / "corpora" / "wordnet.zip", "w") as archive:
        archive.writestr("wordnet/index.noun", INDEX)
    assert concepts.build("wordnet_nouns", phrases=False).texts == ("'hood", "seal")
    with pytest.raises(MissingResource, match="wordnet-base"):
        concepts.build("wordnet_nouns", path=str(tmp_path / "gone"))


def test_union_of_sets(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("seal\nseal\ntench, Tinca tinca\n")
    parts = [{"name": "file", "path": str(tmp_path / "x.txt")}, "imagenet", concepts.of_list(["x"])]
    found = concepts.build("union", parts=parts)
    assert found.name == "x + imagenet + list"
    assert len(found) == 1002
    assert found.texts[:2] == ("seal", "tench, Tinca tinca")
    assert found.dropped == {"duplicate": ("seal", "tench, Tinca tinca")}
    assert len(concepts.build("union", parts=parts, duplicates="keep")) == 1003


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ("imagenet", "must be a list"),
        ([], "union is empty"),
        ([3], "a part of a union is"),
        (["imagenett"], "Did you mean imagenet"),
    ],
)
def test_unions_of_nothing(parts: object, says: str) -> None:
    with pytest.raises(DissectError, match=says):
        concepts.build("union", parts=parts)
