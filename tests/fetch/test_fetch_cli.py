"""`clipdissect fetch` as a user's shell runs it, without any network."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import ROOT
from test_fetch_unpack import make_deb

from clipdissect import fetch as library
from clipdissect import probe
from clipdissect.app.commands import fetch as command
from clipdissect.app.help import COMMANDS, RUNNERS, usage
from clipdissect.errors import DissectError
from clipdissect.utils.files import human_size


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["clipdissect fetch", *arguments])
    try:
        command.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_help_and_list_load_nothing_heavy() -> None:
    check = (
        "import sys; from clipdissect.app.commands import fetch; fetch._parser(); fetch.listing();"
        "print({'torch', 'hydra', 'pandas', 'numpy', 'requests', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_commands_stand_in_a_block_of_their_own() -> None:
    said = usage()
    assert "fetch" in COMMANDS and "fetch" not in RUNNERS
    assert said.index("runners:") < said.index("commands") < said.index("  fetch ")


def test_list_tells_size_licence_and_what_is_there(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = own_cache / "data/concepts/google_20k.txt"
    words.parent.mkdir(parents=True)
    words.write_text("one\n")
    assert run(monkeypatch) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in library.ITEMS)
    assert f"there already: {words}" in said
    assert "439 MB" in said and "Apache-2.0" in said


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "?"), (571, "571 B"), (6833, "6.8 kB"), (155_418, "155 kB"), (6_744_924_160, "6.7 GB")],
)
def test_sizes_for_people(size: int | None, text: str) -> None:
    assert human_size(size) == text


def test_local_file_then_nothing_more_to_do(
    own_cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine.txt").write_text("".join(f"word{n}\n" for n in range(20_000)))
    arguments = ("google_20k", "--from-file", str(tmp_path / "mine.txt"))
    assert run(monkeypatch, *arguments) == 0
    said = capsys.readouterr().out
    assert "digest not known beforehand; got sha256" in said
    assert f"google_20k is in {own_cache / 'data/concepts/google_20k.txt'}" in said
    assert run(monkeypatch, "google_20k") == 0
    assert "is there already" in capsys.readouterr().out


def test_manual_item_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "imagenet_val") == 2
    said = capsys.readouterr().err
    assert "no public address is known" in said
    assert "signed in" in said and "--from-file" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["brodn"], "Did you mean broden"),
        (["mpnet", "nonsense"], "unknown item 'nonsense'"),
        (["google_20k", "--from-file", "/no/such/file"], "there is no file /no/such/file"),
        (["google_20k", "ef_3k", "--from-url", "http://127.0.0.1:9/x"], "go with one item"),
    ],
)
def test_mistakes_end_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    assert run(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("error:") == 1


def test_one_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(name: str, *_: object) -> library.Fetched:
        if name == "mpnet":
            raise DissectError("no luck")
        return library.Fetched(tmp_path, was_there=True)

    monkeypatch.setattr(library, "fetch", failing)
    assert run(monkeypatch, "mpnet", "stamps") == 2
    said = capsys.readouterr()
    assert "error: no luck" in said.err
    assert "stamps is there already" in said.out


def test_interruption(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> library.Fetched:
        raise KeyboardInterrupt

    monkeypatch.setattr(library, "fetch", interrupted)
    assert run(monkeypatch, "mpnet") == 130
    assert "run the same command again" in capsys.readouterr().err


def test_stamps_from_a_package_of_the_users_own(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    if Path("/usr/share/tuxpaint/stamps").is_dir():
        pytest.skip("the stamps are installed on this machine")
    picture = io.BytesIO()
    Image.new("RGB", (4, 4), (9, 8, 7)).save(picture, "png")
    inside = "./usr/share/tuxpaint/stamps"
    names = ["symbols/b.png", *(f"animals/{n}.png" for n in range(500))]
    make_deb(tmp_path / "stamps.deb", {f"{inside}/{n}": picture.getvalue() for n in names})
    assert run(monkeypatch, "stamps", "--from-file", str(tmp_path / "stamps.deb")) == 0
    assert set(probe.build("stamps", fallback=False).images) == set(names[1:])


def test_places365_from_two_archives(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made-up archives in the layout of the real ones, through the item's own table."""
    from dataclasses import replace

    from clipdissect.fetch import run as module
    from clipdissect.fetch.user_sources import file_url

    def pack(name: str, files: dict[str, bytes]) -> str:
        with tarfile.open(tmp_path / name, "w") as out:
            for path, content in files.items():
                info = tarfile.TarInfo(path)
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
        return file_url(str(tmp_path / name))

    (tmp_path / "categories_places365.txt").write_text("/a/airfield 0\n")
    own = [
        file_url(str(tmp_path / "categories_places365.txt")),
        pack("val_256.tar", {"val_256/Places365_val_00000001.jpg": b"jpeg"}),
        pack("filelist_places365-standard.tar", {"places365_val.txt": b"x 1\n", "train.txt": b""}),
    ]
    item = library.ITEMS["places365"]
    (way,) = item.ways
    assert isinstance(way, tuple)
    loose = tuple(replace(file, digest=None, size=None) for file in way)
    got = module.get(replace(item, ways=(loose,), counts=()), urls=own)
    assert got.path == own_cache / "data/places365"
    found = sorted(p.relative_to(got.path).as_posix() for p in got.path.rglob("*") if p.is_file())
    assert found == [
        "categories_places365.txt",
        "places365_val.txt",
        "val_256/Places365_val_00000001.jpg",
    ]
