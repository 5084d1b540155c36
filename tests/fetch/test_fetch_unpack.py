"""Unpacking archives that aren't trusted."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipdissect.errors import DissectError
from clipdissect.fetch import unpack as module
from clipdissect.fetch.unpack import unpack

TIME = 1_500_000_000
FILES = {"top/a.txt": b"alpha", "top/deep/b.bin": bytes(range(256)) * 20}


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, (2017, 7, 14, 2, 40, 0))
            out.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def tar_bytes(
    files: dict[str, bytes], mode: str = "w", extra: tuple[tarfile.TarInfo, ...] = ()
) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), TIME
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return out.getvalue()


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    path.write_bytes(tar_bytes(files, mode))
    return path


def make_deb(path: Path, files: dict[str, bytes], packing: str = "xz") -> Path:
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": tar_bytes({"./control": b"Package: x\n"}, "w:gz"),
        f"data.tar.{packing}": tar_bytes(files, f"w:{packing}"),
    }
    body = b"!<arch>\n"
    for name, content in parts.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        body += header.encode() + content + b"\n" * (len(content) % 2)
    path.write_bytes(body)
    return path


def found(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


@pytest.mark.parametrize(
    "make",
    [
        make_zip,
        make_tar,
        lambda p, f: make_tar(p, f, "w:gz"),
        lambda p, f: make_tar(p, f, "w:xz"),
        lambda p, f: make_tar(p, f, "w:bz2"),
        make_deb,
        lambda p, f: make_deb(p, f, "gz"),
    ],
)
def test_formats_are_told_apart_by_content(
    tmp_path: Path, make: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    archive = make(tmp_path / "archive", FILES)
    unpack(archive, tmp_path / "out")
    assert found(tmp_path / "out") == FILES
    assert (tmp_path / "out/top/a.txt").stat().st_mtime_ns == TIME * 10**9


def test_a_real_debian_package_unpacks_as_dpkg_does(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    )
    (root / "usr/share").mkdir(parents=True)
    (root / "usr/share/a.txt").write_bytes(b"alpha")
    try:
        subprocess.run(
            ["dpkg-deb", "--build", "-Zzstd", str(root), str(tmp_path / "x.deb")],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a dpkg-deb that packs with zstd")
    unpack(tmp_path / "x.deb", tmp_path / "out")
    assert found(tmp_path / "out") == {"usr/share/a.txt": b"alpha"}


@pytest.mark.parametrize(
    "name", ["../evil", "top/../../evil", "/tmp/evil", "C:\\evil", "..\\evil", "\\\\host\\evil"]
)
@pytest.mark.parametrize("make", [make_zip, make_tar, make_deb])
def test_paths_that_lead_out(
    tmp_path: Path, name: str, make: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    archive = make(tmp_path / "archive", {"fine": b"1", name: b"2"})
    with pytest.raises(DissectError, match="leads out"):
        unpack(archive, tmp_path / "in" / "out")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["archive", "in"]


@pytest.mark.parametrize("to", ["/etc/passwd", "../../secret", ".."])
def test_links_that_lead_out(tmp_path: Path, to: str) -> None:
    (tmp_path / "secret").write_text("private")
    archive = tmp_path / "archive"
    archive.write_bytes(tar_bytes({}, extra=(link("a/l", to),)))
    expected = pytest.raises(DissectError, match="leads out")
    if to != "..":
        with expected:
            unpack(archive, tmp_path / "out")
    else:  # the folder itself: inside, and no file, so nothing is made
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out" / "a" / "l").exists()


def test_hard_link_out_and_device(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(tar_bytes({}, extra=(link("l", "../secret", tarfile.LNKTYPE),)))
    with pytest.raises(DissectError, match="leads out"):
        unpack(archive, tmp_path / "out")
    archive.write_bytes(tar_bytes({}, extra=(link("dev", "", tarfile.CHRTYPE),)))
    with pytest.raises(DissectError, match="device"):
        unpack(archive, tmp_path / "out")


def test_file_written_through_a_link(tmp_path: Path) -> None:
    """A link to a folder, then a file below the link's name: the classical way out."""
    outside = tmp_path / "outside"
    outside.mkdir()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(link("d", "."))
        info = tarfile.TarInfo("d/evil")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    (tmp_path / "archive").write_bytes(out.getvalue())
    unpack(tmp_path / "archive", tmp_path / "out")
    assert found(tmp_path / "out") == {"d/evil": b"x"}
    assert not any(p.is_symlink() for p in (tmp_path / "out").rglob("*"))


def test_links_inside_become_copies(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(
        tar_bytes(
            FILES, extra=(link("top/deep/s", "../a.txt"), link("h", "top/a.txt", tarfile.LNKTYPE))
        )
    )
    unpack(archive, tmp_path / "out")
    assert found(tmp_path / "out") == {**FILES, "top/deep/s": b"alpha", "h": b"alpha"}


def test_zip_link_that_leads_out(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("l")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "archive", "w") as out:
        out.writestr(info, "../../etc/passwd")
    with pytest.raises(DissectError, match="leads out"):
        unpack(tmp_path / "archive", tmp_path / "out")


def test_wanted_and_unwanted_members(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a", {"x/1.txt": b"", "x/2.txt": b"", "desktop.ini": b""})
    unpack(archive, tmp_path / "one", take=("x/*",), skip=("2.*",))
    assert list(found(tmp_path / "one")) == ["x/1.txt"]
    unpack(archive, tmp_path / "two", skip=("desktop.ini",))
    assert sorted(found(tmp_path / "two")) == ["x/1.txt", "x/2.txt"]


@pytest.mark.parametrize("make", [make_zip, lambda p, f: make_tar(p, f, "w:xz")])
def test_bomb_stops(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path, dict[str, bytes]], Path],
) -> None:
    monkeypatch.setattr(module, "ALWAYS_ALLOWED", 100_000)
    archive = make(tmp_path / "bomb", {f"{i}": bytes(50_000) for i in range(40)})
    assert 20 * archive.stat().st_size < 2_000_000
    with pytest.raises(DissectError, match="expands to more than"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_many_files_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 5)
    archive = make_zip(tmp_path / "many", {str(i): b"" for i in range(6)})
    with pytest.raises(DissectError, match="5 files"):
        unpack(archive, tmp_path / "out")


def test_damaged_and_strange_archives(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive at all")
    with pytest.raises(DissectError, match="no zip, tar or deb"):
        unpack(tmp_path / "text", tmp_path / "out")
    noise = {"a": os.urandom(50_000)}
    for make in (make_zip, lambda p, f: make_tar(p, f, "w:gz"), make_deb):
        whole = make(tmp_path / "whole", noise).read_bytes()
        (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DissectError, match=r"damaged|no zip"):
            unpack(tmp_path / "cut", tmp_path / "out")
        assert not (tmp_path / "out").exists()
    both = {"a": b"1", "a/b": b"2"}
    with pytest.raises(DissectError, match="a file where it has a folder"):
        unpack(make_tar(tmp_path / "both", both), tmp_path / "out")


def test_flipped_bits_of_a_zip_are_noticed(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "z", {"a": os.urandom(5000)})
    raw = bytearray(archive.read_bytes())
    raw[2000] ^= 255
    archive.write_bytes(raw)
    with pytest.raises(DissectError, match="damaged"):
        unpack(archive, tmp_path / "out")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text("ab./\\:\0 é", min_size=1, max_size=12), min_size=1, max_size=4))
def test_no_name_ever_leads_out(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    raw = tar_bytes(dict.fromkeys(names, b"x"))
    (folder / "archive").write_bytes(raw)
    with contextlib.suppress(DissectError, OSError):
        unpack(folder / "archive", folder / "in" / "out")
    outside = [p for p in folder.rglob("*") if p.is_file() and p != folder / "archive"]
    assert all(p.is_relative_to(folder / "in" / "out") for p in outside)
