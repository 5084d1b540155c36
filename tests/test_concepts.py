"""Concept sets: cleaning, and files as people save them."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipdissect import concepts
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
    with pytest.raises(DissectError, match="must be a text; got 3"):
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
