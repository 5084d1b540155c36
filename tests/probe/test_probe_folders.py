"""Which files below a folder are the probe's images, and what its notes say of the others."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from sets import picture

from clipdissect import probe, report
from clipdissect.errors import DissectError
from clipdissect.probe import image_files

HIDDEN = (
    "._1.png",
    ".thumbnails/1.png",
    ".ipynb_checkpoints/1-checkpoint.png",
    "__MACOSX/1.png",
    "cat/@eaDir/1.png/thumb.jpg",
    "cat/.Trash-0/files/1.png",
    "#recycle/1.png",
)


def images(root: Path, **parameters: Any) -> probe.Probe:
    return probe.build("folder", root=str(root), **parameters)


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_files_and_folders_are_left_out_with_a_count(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "cat" / "1.png")
    plain = images(tmp_path)
    picture(tmp_path / name)
    found = images(tmp_path)
    assert (found.images, found.digest, plain.notes) == (plain.images, plain.digest, ())
    (note,) = found.notes
    assert note.startswith("images left out of the probe: 1 in hidden files and folders")


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    for name in ("val/n01440764/1.JPEG", "val/.cache/1.JPEG", "val/__MACOSX/2.JPEG"):
        picture(tmp_path / name)
    found = probe.build("imagenet_val", root=str(tmp_path))
    assert found.images == ("n01440764/1.JPEG",)
    assert "2 in hidden files" in found.notes[0]


def test_a_root_below_a_hidden_folder_is_the_users_choice(tmp_path: Path) -> None:
    picture(tmp_path / ".data" / "@eaDir" / "1.png")
    assert images(tmp_path / ".data" / "@eaDir").images == ("1.png",)


def test_linked_folders_and_files_are_followed_as_torchvision_does(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    picture(tmp_path / "far" / "1.png")
    picture(tmp_path / "root" / "cat" / "2.png")
    (tmp_path / "root" / "dog").symlink_to(tmp_path / "far")
    (tmp_path / "root" / "cat" / "3.png").symlink_to(tmp_path / "far" / "1.png")
    found = images(tmp_path / "root", labels="folders")
    theirs = sorted(
        Path(path).relative_to(tmp_path / "root").as_posix()
        for path, _ in ImageFolder(tmp_path / "root").samples
    )
    assert list(found.images) == theirs == ["cat/2.png", "cat/3.png", "dog/1.png"]
    assert found.labels == ("cat", "cat", "dog")
    assert found.notes == ()


def test_links_that_lead_back_or_nowhere(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "deep" / "1.png")
    (tmp_path / "a" / "deep" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = images(tmp_path)
    assert found.images == ("a/deep/1.png",)
    assert [note.rpartition(": ")[2] for note in found.notes] == [
        "1 (such as gone.png)",
        "1 (such as a/deep/up)",
    ]
    (tmp_path / "b").symlink_to(tmp_path / "a")
    both = images(tmp_path)
    assert both.images == ("a/deep/1.png", "b/deep/1.png")
    assert "count once per link" in both.notes[-1]


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `open/1.png`, and `shut` that can't be listed (tests may run as root)."""
    picture(tmp_path / "set" / "open" / "1.png")
    (tmp_path / "set" / "shut").mkdir()
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(image_files.os, "scandir", scandir)
    return tmp_path / "set"


def test_unreadable_folders_are_named(locked: Path) -> None:
    with pytest.raises(DissectError, match=r"can't read the folder .*shut: Permission denied"):
        images(locked / "shut")
    found = images(locked)
    assert found.images == ("open/1.png",)
    assert found.notes == ("folders that can't be read, left out: 1 (such as shut)",)
    with pytest.raises(DissectError, match=r"can't read the folder .*shut: Permission denied"):
        images(locked, on_error="raise")
    (locked / "open" / "1.png").unlink()
    with pytest.raises(DissectError, match=r"no image files .* can't be read, left out: 1"):
        images(locked)


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder that everyone may enter, in a process without a superuser's rights."""
    folder = Path(tempfile.mkdtemp(prefix="probe-", dir="/tmp"))
    folder.chmod(0o777)
    privileged = hasattr(os, "seteuid") and os.geteuid() == 0
    if privileged:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if privileged:
            os.seteuid(0)
        for path in folder.rglob("*"):
            path.chmod(0o777)
        shutil.rmtree(folder)


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
def test_real_permissions(nobody: Path, mode: int) -> None:
    for name in ("set/open/1.png", "set/shut/2.png", "set/shut/deep/3.png"):
        picture(nobody / name)
    shut = nobody / "set" / "shut"
    shut.chmod(mode)
    if mode == 0o444:  # its files are named, but can't be looked at
        with pytest.raises(DissectError, match=r"can't access .*2\.png: Permission denied"):
            images(nobody / "set")
        with pytest.raises(DissectError, match=r"can't read the folder .*deep: Permission denied"):
            images(shut / "deep")
    else:
        found = images(nobody / "set")
        assert found.images == ("open/1.png",)
        assert found.notes == ("folders that can't be read, left out: 1 (such as shut)",)
        for name, root in (
            ("folder", shut),
            ("imagenet_val", shut),
            ("broden", shut / "deep"),
            ("cifar10_test", shut),
        ):
            if mode == 0o000 or root == shut:
                with pytest.raises(DissectError, match=r"can't read the folder .*shut"):
                    probe.build(name, root=str(root))


def test_pictures_of_other_kinds_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    for name in ("2.HEIC", "3.heic", "4.svg", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert images(tmp_path).notes == ("images in unsupported formats: 2 .heic, 1 .svg",)


def test_notes_of_a_union_say_whose_they_are(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/.x.png", "b/1.png", "b/.x.png"):
        picture(tmp_path / name)
    parts = [{"name": "folder", "root": str(tmp_path / name)} for name in ("a", "b")]
    notes = probe.build("union", parts=parts).notes
    assert [note.partition(":")[0] for note in notes] == ["a", "b"]
    assert probe.build("union", parts=parts[:1]).notes == images(tmp_path / "a").notes


def test_a_release_of_broden_with_linked_folders(tmp_path: Path) -> None:
    from sets import write_broden

    write_broden(tmp_path / "broden")
    (tmp_path / "broden" / "images" / "ade").rename(tmp_path / "ade")
    (tmp_path / "broden" / "images" / "ade").symlink_to(tmp_path / "ade")
    assert len(probe.build("broden", root=str(tmp_path / "broden"))) == 3


def result(folder: Path) -> Path:
    """A run as the library saves it, with a report and thumbnails."""
    from clipdissect.results.tables import ResultTables

    rows = {"layer": ["l"], "unit": [0], "description": ["red"], "similarity": [1.0]}
    top = {"layer": ["l"], "unit": [0], "rank": [1], "image": ["1.png"], "activation": [1.0]}
    facts = {"versions": {"clipdissect": "0.1.0"}}
    ResultTables(pd.DataFrame(rows), pd.DataFrame(top), facts).save(folder)
    picture(folder / "report" / "thumbnails" / "x.webp")
    report.build(folder)
    return folder


def copied_report(folder: Path) -> Path:
    (result(folder.parent / "run") / "report").rename(folder)
    (folder.parent / "run" / "run.json").unlink()
    return folder


def interrupted(folder: Path) -> Path:
    (result(folder) / "run.json").unlink()
    return folder


def of_a_runner(folder: Path) -> Path:
    """What a runner that was killed leaves."""
    picture(folder / "panels.png")
    (folder / ".hydra").mkdir()
    callbacks = (
        "hydra:\n  callbacks:\n    launched:\n      _target_: clipdissect.app.callbacks.Launched"
    )
    (folder / ".hydra" / "hydra.yaml").write_text(callbacks)
    return folder


def multirun(folder: Path) -> Path:
    picture(folder / "search.png")
    (folder / "multirun.yaml").write_text("_target_: clipdissect.app.callbacks.Launched\n")
    return folder


def of_wandb(folder: Path) -> Path:
    picture(folder / "wandb" / "run-20260101_000000-x" / "files" / "media" / "1.png")
    return folder


def cache(folder: Path) -> Path:
    picture(folder / "x" / "1.png")
    (folder / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55")
    return folder


@pytest.mark.parametrize(
    "make", [result, copied_report, interrupted, of_a_runner, multirun, of_wandb, cache]
)
def test_earlier_runs_reports_and_caches_are_left_out(tmp_path: Path, make: Any) -> None:
    picture(tmp_path / "images" / "1.png")
    before = images(tmp_path)
    make(tmp_path / "results" / "job" / "2026")
    after = images(tmp_path)
    assert (after.images, after.digest) == (before.images, before.digest)
    assert after.notes[0].startswith("images left out of the probe: 1 in ")
    with pytest.raises(DissectError, match=r"no image files.*images left out of the probe: 1"):
        images(tmp_path / "results")


def test_the_user_cache_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPDISSECT_CACHE", str(tmp_path / "mine"))
    picture(tmp_path / "mine" / "thumbnails" / "1.jpg")
    picture(tmp_path / "1.png")
    found = images(tmp_path)
    assert found.images == ("1.png",)
    assert "1 in caches (such as mine)" in found.notes[0]


@pytest.mark.parametrize("name", ["run.json", "index.html", "multirun.yaml", "descriptions.csv"])
def test_files_of_others_make_no_run(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "a" / "1.png")
    (tmp_path / "a" / name).write_text(json.dumps({"made": "elsewhere"}))
    (tmp_path / "a" / ".hydra").mkdir()
    (tmp_path / "a" / ".hydra" / "hydra.yaml").write_text("hydra: {}\n")
    assert images(tmp_path).images == ("a/1.png",)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("folder", {"root": ""}),
        ("folder", {"root": "  "}),
        ("broden", {"root": ""}),
        ("imagenet_val", {"root": ""}),
        ("imagenet_val", {"ground_truth": ""}),
        ("imagenet_broden", {"imagenet": ""}),
        ("imagenet_broden", {"broden": ""}),
        ("cifar10_test", {"root": ""}),
        ("cifar100_train", {"root": "", "download": True}),
        ("hf_datasets", {"path": ""}),
        ("webdataset", {"shards": ""}),
        ("webdataset", {"shards": "x.tar", "classes": ""}),
        ("synthetic_broden", {"root": ""}),
        ("union", {"parts": [{"name": "folder", "root": ""}]}),
    ],
)
def test_an_empty_place_is_refused(name: str, parameters: dict[str, Any]) -> None:
    with pytest.raises(DissectError, match=r"probe\.\w+ is empty \(an unset variable\?\)"):
        probe.build(name, **parameters)


@pytest.mark.parametrize("empty", ["", Path()])
def test_an_empty_probe_is_refused(empty: Any) -> None:
    with pytest.raises(DissectError, match="empty"):
        probe.resolve(empty)


def test_a_list_of_shards_with_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(DissectError, match=r"probe\.shards is empty"):
        probe.build("webdataset", shards=["", str(tmp_path / "x.tar")])


def test_runs_in_the_folder_of_their_images_see_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole runs, with reports and their thumbnails below the images."""
    from test_report import run_of
    from tiny import write_colours

    monkeypatch.chdir(tmp_path)
    write_colours(tmp_path, shades=2)
    tables = []
    for number in range(3):
        folder = run_of(tmp_path / "results" / "dissect" / str(number), Path("."))
        facts = json.loads((folder / "run.json").read_text())
        assert facts["probe"]["images"] == 12
        assert any("earlier runs" in note for note in facts["notes"]) == (number > 0)
        assert list((folder / "report" / "thumbnails").iterdir())
        tables.append([(folder / f"{n}.csv").read_bytes() for n in ("descriptions", "top_images")])
    assert tables[0] == tables[1] == tables[2]


def test_two_images_of_one_name() -> None:
    with pytest.raises(DissectError, match="two images named a"):
        probe.Probe("x", ("a", "b", "a"), lambda i: Image.new("RGB", (1, 1)), "d")
