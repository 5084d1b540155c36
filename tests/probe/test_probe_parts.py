"""Choosing, telling apart and joining images."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sets import picture
from tiny import write_colours

from clipdissect import probe
from clipdissect.errors import DissectError, MissingResource
from clipdissect.probe import image_files
from clipdissect.probe.base import Probe
from clipdissect.probe.options import ProbeOptions


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_colours(tmp_path / "a", shades=2)
    return tmp_path / "a"


def made(name: str, count: int) -> Probe:
    images = [f"{name}{i}" for i in range(count)]
    return Probe.of(name, images, lambda i: Image.new("RGB", (i + 1, 1)), images)


def test_limit_takes_the_first_and_sample_is_seeded(root: Path) -> None:
    every = probe.build("folder", root=str(root))
    first = probe.build("folder", root=str(root), limit=3)
    assert first.images == every.images[:3]
    drawn = probe.build("folder", root=str(root), sample=5, seed=1)
    assert drawn.images == probe.build("folder", root=str(root), sample=5, seed=1).images
    assert drawn.images != probe.build("folder", root=str(root), sample=5, seed=2).images
    assert list(drawn.images) == sorted(drawn.images)
    both = probe.build("folder", root=str(root), limit=3, sample=2)
    assert set(both.images) < set(first.images)
    assert drawn.read(0).size == every.read(every.images.index(drawn.images[0])).size


def test_a_draw_is_the_same_everywhere() -> None:
    assert list(ProbeOptions(sample=4, seed=0).pick(100)) == [5, 49, 53, 97]


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"limit": 0}, r"probe\.limit is 0"),
        ({"limit": "5"}, "limit must be a whole number or None; got '5'"),
        ({"sample": 1.5}, r"sample must be a whole number or None; got 1\.5"),
        ({"sample": 99}, r"probe\.sample is 99, but there are 12 images"),
        ({"identity": "name"}, "stat or content"),
        ({"decode": "slow"}, "pil or fast or gpu"),
        ({"labels": "file"}, "none or folders"),
        ({"labels": "folders"}, "in no folders"),
    ],
)
def test_values_that_are_not_allowed(root: Path, parameters: dict[str, object], says: str) -> None:
    with pytest.raises(DissectError, match=says):
        probe.build("folder", root=str(root), **parameters)


def test_folders_are_labels(tmp_path: Path) -> None:
    for name in ("cat/1.png", "cat/deep/2.png", "dog/1.png", "3.png"):
        picture(tmp_path / name)
    found = probe.build("folder", root=str(tmp_path), labels="folders")
    assert found.images == ("3.png", "cat/1.png", "cat/deep/2.png", "dog/1.png")
    assert found.labels == (None, "cat", "cat", "dog")
    assert found.path(3) == tmp_path / "dog" / "1.png"
    assert found.origin(0) == tmp_path.name
    assert probe.build("folder", root=str(tmp_path)).labels is None


def test_content_follows_bytes_alone(root: Path, tmp_path: Path) -> None:
    before = probe.build("folder", root=str(root), identity="content")
    assert before.digest != probe.build("folder", root=str(root)).digest
    os.utime(root / "red0.png", ns=(5, 5))
    root.rename(tmp_path / "b")
    (tmp_path / "b" / "red0.png").rename(tmp_path / "b" / "red0x.png")
    after = probe.build("folder", root=str(tmp_path / "b"), identity="content")
    assert after.digest == before.digest
    assert after.images != before.images


def test_content_notices_a_file_rewritten_with_the_same_size_and_time(tmp_path: Path) -> None:
    file = tmp_path / "x.bmp"
    Image.new("RGB", (4, 4), (1, 2, 3)).save(file)
    os.utime(file, ns=(7, 7))
    digests = {
        i: probe.build("folder", root=str(tmp_path), identity=i).digest for i in ("stat", "content")
    }
    Image.new("RGB", (4, 4), (1, 2, 4)).save(file)
    os.utime(file, ns=(7, 7))
    assert probe.build("folder", root=str(tmp_path)).digest == digests["stat"]
    assert (
        probe.build("folder", root=str(tmp_path), identity="content").digest != digests["content"]
    )


def test_files_are_digested_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    original = image_files.hashing.hash_file
    monkeypatch.setattr(
        image_files.hashing, "hash_file", lambda path: (read.append(path), original(path))[1]
    )
    first = probe.build("folder", root=str(root), identity="content")
    assert len(read) == 12
    assert probe.build("folder", root=str(root), identity="content").digest == first.digest
    assert len(read) == 12
    picture(root / "red1.png")
    assert probe.build("folder", root=str(root), identity="content").digest != first.digest
    assert len(read) == 13


def test_damaged_record_of_digests_is_made_again(root: Path, own_cache: Path) -> None:
    first = probe.build("folder", root=str(root), identity="content").digest
    (record,) = (own_cache / "digests").iterdir()
    for content in ("{", "[]", '{"red0.png": 3}'):
        record.write_text(content)
        assert probe.build("folder", root=str(root), identity="content").digest == first


def test_subset_is_the_same_however_it_is_chosen(root: Path) -> None:
    every = probe.build("folder", root=str(root))
    assert every.subset(range(4)).digest == probe.build("folder", root=str(root), limit=4).digest
    assert every.subset([5, 3, 1]).subset([2, 0]).digest == every.subset([1, 5]).digest
    assert every.subset([1, 5]).digest != every.subset([5, 1]).digest
    assert every.subset(range(len(every))) is every
    chosen = every.subset([5, 3])
    assert chosen.images == (every.images[5], every.images[3])
    assert chosen.path(1) == every.path(3)
    assert chosen.read(0).size == every.read(5).size
    with pytest.raises(DissectError, match="distinct"):
        every.subset([1, 1])
    with pytest.raises(DissectError, match="distinct"):
        every.subset([12])
    with pytest.raises(DissectError, match="no images"):
        every.subset([])


def test_union_is_its_parts_one_after_the_other(root: Path, tmp_path: Path) -> None:
    picture(tmp_path / "b" / "cat" / "x.png")
    parts = [
        {"name": "folder", "root": str(root)},
        {"name": "folder", "root": str(tmp_path / "b"), "labels": "folders"},
    ]
    found = probe.build("union", parts=parts)
    assert len(found) == 13
    assert found.images[0] == "a/blue0.png"
    assert found.images[12] == "b/cat/x.png"
    assert found.labels == (*[None] * 12, "cat")
    assert found.origin(0) == "a"
    assert found.origin(12) == "b"
    assert found.path(12) == tmp_path / "b" / "cat" / "x.png"
    assert found.read(12).size == (12, 10)
    alone = probe.build("folder", root=str(root))
    assert [p.digest for p in found.parts] == [
        alone.digest,
        probe.build("folder", root=str(tmp_path / "b")).digest,
    ]
    assert pickle.loads(pickle.dumps(found)).read(12).size == (12, 10)  # noqa: S301 - our own


def test_unions_of_unions_and_of_one_name(root: Path) -> None:
    alone = probe.build("folder", root=str(root))
    once = probe.build("union", parts=[alone])
    twice = probe.build("union", parts=[once, alone, alone])
    assert [p.name for p in twice.parts] == ["a", "a-2", "a-3"]
    assert len(set(twice.images)) == 36
    assert {p.digest for p in twice.parts} == {alone.digest}
    assert once.digest == alone.digest  # the same images in the same order


def test_on_error_of_a_union_is_for_all_parts(root: Path) -> None:
    found = probe.build("union", parts=[{"name": "folder", "root": str(root)}], on_error="raise")
    assert found.parts[0].on_error == "raise"


def test_union_of_packaged_photographs(root: Path) -> None:
    pytest.importorskip("skimage")
    found = probe.build("union", parts=["photos", {"name": "folder", "root": str(root)}], sample=40)
    assert len(found) == 40
    assert sum(map(len, found.parts)) == 40
    assert found.path(0) is None


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ("stamps", "must be a list"),
        ([], "no parts"),
        ([3], "a part of a union is"),
        ([{"root": "x"}], "a part of a union is"),
        (["stemps"], "Did you mean stamps"),
        ([{"name": "folder", "rot": "x"}], "parameter of probe folder 'rot'"),
    ],
)
def test_parts_that_are_none(parts: object, says: str) -> None:
    with pytest.raises(DissectError, match=says):
        probe.build("union", parts=parts)


def test_missing_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingResource, match="gone"):
        probe.build("union", parts=[{"name": "folder", "root": str(tmp_path / "gone")}])


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 1000), st.booleans())
def test_subset_of_a_union(sizes: list[int], seed: int, ordered: bool) -> None:
    whole = probe.join("u", [made(f"p{n}", size) for n, size in enumerate(sizes)])
    draw = random.Random(seed)
    chosen = draw.sample(range(len(whole)), draw.randint(1, len(whole)))
    chosen = sorted(chosen) if ordered else chosen
    found = whole.subset(chosen)
    assert found.images == tuple(whole.images[i] for i in chosen)
    assert [found.read(i).size for i in range(len(found))] == [whole.read(i).size for i in chosen]
    if ordered:
        assert found.parts
    if found.parts:
        assert [f"{p.name}/{image}" for p in found.parts for image in p.images] == [*found.images]
        assert [i for p in found.parts for i in p.identities or ()] == list(found.identities or ())


def test_dataset_with_classes_is_labelled() -> None:
    class Pets(list):  # type: ignore[type-arg]
        classes = ("cat", "dog")
        targets = (1, 0)

    images = Pets([Image.new("RGB", (2, 2)), Image.new("RGB", (2, 2))])
    assert probe.dataset(images).labels == ("dog", "cat")
    images.targets = (1, 2)
    assert probe.dataset(images).labels is None


def test_fields_of_another_length() -> None:
    with pytest.raises(DissectError, match="2 images, but 1 labels"):
        Probe("x", ("a", "b"), lambda i: Image.new("RGB", (1, 1)), "d", labels=("cat",))
