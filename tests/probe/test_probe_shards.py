"""Tar shards as a probe."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sets import jpeg, write_tar

from clipdissect import probe
from clipdissect.errors import DissectError, MissingResource
from clipdissect.images.decode import UnreadableImage, to_pil
from clipdissect.probe import shards

REDS = (250, 200, 150, 100, 50, 0)


def red(value: int) -> bytes:
    return jpeg((value, 0, 0))


def first_red(found: probe.Probe, index: int) -> int:
    return int(np.asarray(to_pil(found.read(index)))[0, 0, 0])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two shards of three images; labels in words, numbers and not at all."""
    write_tar(
        tmp_path / "t" / "s-00.tar",
        {
            "a/000.jpg": red(REDS[0]),
            "a/000.cls": b"1\n",
            "a/000.txt": b"a caption",
            "a/001.jpg": red(REDS[1]),
            "a/001.txt": b" a  tench \n",
            "a/001.json": b"{}",
            "a/002.seg.png": red(1),
            "a/002.jpg": red(REDS[2]),
            "a/._002.jpg": b"",
            "__MACOSX/x.jpg": b"",
        },
    )
    write_tar(tmp_path / "t" / "s-01.tar", {f"{n}.jpeg": red(REDS[3 + n]) for n in range(3)})
    return tmp_path / "t"


def test_images_and_labels_in_the_shards_order(root: Path) -> None:
    found = probe.build("webdataset", shards=f"{root}/s-{{00..01}}.tar")
    assert found.images == (
        "s-00.tar/a/000.jpg",
        "s-00.tar/a/001.jpg",
        "s-00.tar/a/002.jpg",
        "s-01.tar/0.jpeg",
        "s-01.tar/1.jpeg",
        "s-01.tar/2.jpeg",
    )
    assert found.labels == ("1", "a tench", None, None, None, None)
    for index in (5, 0, 3, 2):
        assert abs(first_red(found, index) - REDS[index]) <= 2
    assert found.path(0) is None
    assert found.notes == (
        "shards: 6 images (3 jpg, 3 jpeg), 2 of them with a label",
        "members of the shards left out of the probe: 1 seg.png (probe.image says which extensions "
        "are used, one image per sample)",
        "images left out of the probe: 2 hidden files in the shards",
    )


@pytest.mark.parametrize("pattern", ["*.tar", "s-0[01].tar", "{s-00,s-01}.tar"])
def test_patterns(root: Path, pattern: str) -> None:
    found = probe.build("webdataset", shards=str(root / pattern))
    listed = probe.build("webdataset", shards=[str(root / f"s-0{n}.tar") for n in (0, 1)])
    assert found.digest == listed.digest
    assert len(found) == 6


def test_names_of_label_numbers(root: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("tench\ngoldfish\n")
    one = str(root / "s-00.tar")
    found = probe.build("webdataset", shards=one, classes=str(tmp_path / "names.txt"))
    assert found.labels == ("goldfish", "a tench", None)
    known = probe.build("webdataset", shards=one, classes="imagenet")
    assert (known.labels or ())[0] == "goldfish, Carassius auratus"
    with pytest.raises(MissingResource, match=r"probe\.classes"):
        probe.build("webdataset", shards=one, classes=str(tmp_path / "none.txt"))
    (tmp_path / "names.txt").write_text("tench\n")
    with pytest.raises(DissectError, match=r"probe\.classes has 1 names, but a label is 1"):
        probe.build("webdataset", shards=one, classes=str(tmp_path / "names.txt"))


def test_shards_are_listed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = probe.build("webdataset", shards=str(root / "*.tar"))
    monkeypatch.setattr(shards, "_scan", lambda shard: pytest.fail("read again"))
    again = probe.build("webdataset", shards=str(root / "*.tar"))
    assert again == first or (again.images, again.digest) == (first.images, first.digest)
    assert abs(first_red(again, 4) - REDS[4]) <= 2


def test_changed_shard_is_listed_again_and_changes_the_identity(root: Path) -> None:
    before = probe.build("webdataset", shards=str(root / "*.tar"))
    write_tar(root / "s-01.tar", {"x.jpg": red(9), "y.jpg": red(10)})
    after = probe.build("webdataset", shards=str(root / "*.tar"))
    assert after.images[3:] == ("s-01.tar/x.jpg", "s-01.tar/y.jpg")
    assert after.digest != before.digest
    assert after.subset(range(3)).digest == before.subset(range(3)).digest


def test_content_knows_a_touched_and_renamed_shard(root: Path) -> None:
    def digest(file: str) -> str:
        return probe.build("webdataset", shards=str(root / file), identity="content").digest

    before = digest("s-00.tar")
    os.utime(root / "s-00.tar", ns=(3, 3))
    (root / "s-00.tar").rename(root / "other.tar")
    assert digest("other.tar") == before


def test_threads_and_forked_processes_read_at_once(root: Path) -> None:
    found = probe.build("webdataset", shards=str(root / "*.tar"), decode="fast")
    assert isinstance(found.read(0), torch.Tensor)
    with ThreadPoolExecutor(4) as pool:
        threads = list(pool.map(lambda i: first_red(found, i), [*range(6)] * 20))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [
        context.Process(target=lambda: queue.put([first_red(found, i) for i in range(6)]))
        for _ in range(2)
    ]
    for child in children:
        child.start()
    forked = [queue.get() for _ in children]
    for child in children:
        child.join()
    assert threads == [*forked[0], *forked[1]] * 10
    assert all(abs(a - b) <= 2 for a, b in zip(forked[0], REDS, strict=True))


def test_addresses_that_fsspec_opens(root: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for file in root.iterdir():
        memory.pipe(f"/shards/{file.name}", file.read_bytes())
    found = probe.build("webdataset", shards="memory://shards/s-{00..01}.tar")
    assert len(found) == 6
    assert abs(first_red(found, 3) - REDS[3]) <= 2
    assert probe.build("webdataset", shards="memory://shards/*.tar").images == found.images
    local = probe.build("webdataset", shards=str(root / "*.tar"))
    assert found.images == local.images
    with pytest.raises(DissectError, match="only local shards"):
        probe.build("webdataset", shards="memory://shards/s-00.tar", identity="content")
    with pytest.raises(MissingResource, match=r"s-07\.tar"):
        probe.build("webdataset", shards="memory://shards/s-07.tar")
    with pytest.raises(DissectError, match="can't be opened"):
        probe.build("webdataset", shards="nosuch://shards/s-07.tar")


def test_one_file_name_in_two_folders(root: Path) -> None:
    write_tar(root / "b" / "s-00.tar", {"a/000.jpg": red(7)})
    both = [str(root / "s-00.tar"), str(root / "b" / "s-00.tar")]
    found = probe.build("webdataset", shards=both)
    assert len(set(found.images)) == 4
    with pytest.raises(DissectError, match="twice"):
        probe.build("webdataset", shards=[both[0], both[0]])


def test_names_that_lead_out_of_a_folder_are_only_names(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"../../etc/x.jpg": red(80), "/abs.jpg": red(90)})
    found = probe.build("webdataset", shards=str(tmp_path / "x.tar"))
    assert found.images == ("x.tar/../../etc/x.jpg", "x.tar//abs.jpg")
    assert abs(first_red(found, 1) - 90) <= 2


@pytest.mark.parametrize(
    ("mode", "says"), [("w:gz", "decompress it first"), ("w:bz2", "decompress it first")]
)
def test_compressed_shards(tmp_path: Path, mode: str, says: str) -> None:
    write_tar(tmp_path / "x.tar", {"x.jpg": red(1)}, mode)
    with pytest.raises(DissectError, match=says):
        probe.build("webdataset", shards=str(tmp_path / "x.tar"))


def test_shard_that_is_cut_short(root: Path) -> None:
    whole = (root / "s-01.tar").read_bytes()
    (root / "s-01.tar").write_bytes(whole[:1800])
    with pytest.raises(DissectError, match="truncated"):
        probe.build("webdataset", shards=str(root / "s-01.tar"))


def test_shard_that_changes_under_the_probe(root: Path) -> None:
    found = probe.build("webdataset", shards=str(root / "s-01.tar"))
    whole = (root / "s-01.tar").read_bytes()
    (root / "s-01.tar").write_bytes(whole[:1800])
    with pytest.raises(UnreadableImage, match="truncated"):
        found.read(2)
    (root / "s-01.tar").unlink()
    with pytest.raises(UnreadableImage) as caught:
        found.read(0)
    assert caught.value.transient


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("gone.tar", r"gone\.tar"),
        ("*.tgz", "missing: shards"),
        ("{0..", "probe.shards"),
        ([], "lists no tar files"),
    ],
)
def test_shards_that_are_not_there(tmp_path: Path, given: object, says: str) -> None:
    shards_given = [] if given == [] else str(tmp_path / str(given))
    with pytest.raises(DissectError, match=says):
        probe.build("webdataset", shards=shards_given)


def test_shard_without_images(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"x.txt": b"words"})
    with pytest.raises(DissectError, match="no images"):
        probe.build("webdataset", shards=str(tmp_path / "x.tar"))


def taken(tmp_path: Path, members: dict[str, bytes], **parameters: object) -> dict[str, str | None]:
    """Image to label of a shard of such members."""
    found = probe.build(
        "webdataset", shards=str(write_tar(tmp_path / "x.tar", members)), **parameters
    )
    labels = found.labels or [None] * len(found)
    return {n.removeprefix("x.tar/"): label for n, label in zip(found.images, labels, strict=True)}


@pytest.mark.parametrize(
    ("members", "image", "expected"),
    [
        # A name with several dots is a sample of its own where its label says so.
        (
            {"a.b.png": "i", "a.b.cls": "3", "a.c.png": "i", "a.c.cls": "4"},
            None,
            {"a.b.png": "3", "a.c.png": "4"},
        ),
        ({"d/v1.2.jpg": "i", "d/v1.2.txt": "cat"}, None, {"d/v1.2.jpg": "cat"}),
        # A mask is no image, whatever its ending, nor is the second image of a sample.
        ({"z.jpg": "i", "z.seg.png": "i", "z.cls": "1", "z.seg.cls": "2"}, None, {"z.jpg": "1"}),
        ({"z.png": "i", "z.jpg": "i", "z.txt": "t"}, None, {"z.jpg": "t"}),
        ({"z.jpg": "i", "z.png": "i"}, "png", {"z.png": None}),
        ({"z.PNG": "i", "z.CLS": "5"}, None, {"z.PNG": "5"}),
        # Endings of the user's own, the best first.
        ({"z.rgb.png": "i", "z.depth.png": "i", "z.cls": "1"}, ".RGB.png", {"z.rgb.png": "1"}),
        (
            {"z.rgb.png": "i", "y.jpg": "i", "y.rgb.png": "i"},
            ["rgb.png", "jpg"],
            {"z.rgb.png": None, "y.rgb.png": None},
        ),
        (
            {"a.1.png": "i", "a.2.png": "i", "a.cls": "0", "a.2.cls": "7"},
            "*.png",
            {"a.1.png": "0", "a.2.png": "7"},
        ),
    ],
)
def test_which_members_are_images(
    tmp_path: Path, members: dict[str, str], image: object, expected: dict[str, str | None]
) -> None:
    content = {n: red(9) if text == "i" else text.encode() for n, text in members.items()}
    assert taken(tmp_path, content, image=image) == expected


def test_endings_that_no_member_has_and_values_that_are_none(tmp_path: Path) -> None:
    members = {f"{n}.{kind}.png": red(9) for n in range(3) for kind in ("rgb", "depth")}
    with pytest.raises(DissectError, match=r"3 rgb\.png, 3 depth\.png.*probe\.image=rgb\.png"):
        taken(tmp_path, members)
    for image in ("", [], {"a": 1}, 3, ["jpg", ""]):
        with pytest.raises(DissectError, match=r"probe\.image is"):
            taken(tmp_path, {"z.jpg": red(9)}, image=image)
