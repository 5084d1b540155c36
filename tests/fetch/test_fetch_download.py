"""The downloader against a server on this machine: what arrives, what is refused, what is asked."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import Server, serve

from clipdissect.fetch import download as module
from clipdissect.fetch.download import DiskFull, SourceFailed, download

BODY = bytes(range(256)) * 400  # 102,400 bytes
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "BACKOFF_S", 0.0)
    monkeypatch.setattr(module, "TIMEOUT_S", 5.0)
    monkeypatch.setattr(module, "CHUNK", 10_000)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as running:
        yield running


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_whole_file_with_its_digest(server: Server, tmp_path: Path) -> None:
    url = server.add("file.bin", BODY)
    got = download([url], tmp_path / "file.bin", f"sha256:{SHA256}", len(BODY))
    assert got.path.read_bytes() == BODY
    assert (got.source, got.sha256, got.known) == (url, SHA256, True)
    assert left(tmp_path) == ["file.bin"]


@pytest.mark.parametrize(
    "digest", [f"sha256:{SHA256[:8]}", f"md5:{hashlib.md5(BODY).hexdigest()}", None]
)
def test_kinds_of_digest(server: Server, tmp_path: Path, digest: str | None) -> None:
    got = download([server.add("f", BODY)], tmp_path / "f", digest)
    assert got.sha256 == SHA256
    assert got.known is (digest is not None)


def test_cut_connection_is_tried_again(server: Server, tmp_path: Path) -> None:
    url = server.add("f", BODY)
    server.cuts["/f"] = [30_000, 40_000]
    got = download([url], tmp_path / "f")
    assert got.path.read_bytes() == BODY
    assert len(server.asked) == 3


def test_connection_that_is_always_cut_leaves_nothing(server: Server, tmp_path: Path) -> None:
    url = server.add("f", BODY)
    server.cuts["/f"] = [30_000, 0, 0, 0, 0]
    with pytest.raises(SourceFailed, match="/f: "):
        download([url], tmp_path / "f")
    assert len(server.asked) == module.ATTEMPTS
    assert left(tmp_path) == []


def test_file_without_a_length(server: Server, tmp_path: Path) -> None:
    url = server.add("f", BODY)
    server.length = False
    assert download([url], tmp_path / "f").path.read_bytes() == BODY
    server.cuts["/f"] = [500]
    with pytest.raises(SourceFailed, match="its file has 500 bytes, expected 102400"):
        download([url], tmp_path / "g", size=len(BODY))
    with pytest.raises(SourceFailed, match="its file has 102400 bytes, expected 7"):
        download([url], tmp_path / "h", size=7)


def test_wrong_digest_leaves_nothing(server: Server, tmp_path: Path) -> None:
    url = server.add("f", BODY)
    with pytest.raises(SourceFailed, match=f"its sha256 is {SHA256}, expected 00ff"):
        download([url], tmp_path / "f", "sha256:00ff")
    assert left(tmp_path) == []


def test_wrong_size_is_noticed_before_the_download(server: Server, tmp_path: Path) -> None:
    url = server.add("f", BODY)
    with pytest.raises(SourceFailed, match="its file has 102400 bytes, expected 5"):
        download([url], tmp_path / "f", size=5)
    assert left(tmp_path) == []


def test_damaged_mirror_then_a_good_one(server: Server, tmp_path: Path) -> None:
    bad, good = server.add("bad", BODY[:-1] + b"x"), server.add("good", BODY)
    got = download([bad, good], tmp_path / "f", f"sha256:{SHA256}")
    assert got.source == good
    assert got.path.read_bytes() == BODY


def test_missing_then_a_good_mirror(server: Server, tmp_path: Path) -> None:
    good = server.add("good", BODY)
    got = download([f"{server.url}/gone", good], tmp_path / "f")
    assert got.source == good
    assert [path for path, _ in server.asked] == ["/gone", "/good"]  # a 404 isn't asked again


def test_overloaded_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    url = server.add("f", BODY)
    server.codes["/f"] = [503, 429]
    assert download([url], tmp_path / "f").path.read_bytes() == BODY
    assert len(server.asked) == 3


def test_all_sources_fail_and_each_is_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SourceFailed) as caught:
        download([f"{server.url}/a", "http://127.0.0.1:9/b"], tmp_path / "f")
    assert "/a: the server says 404 Not Found" in str(caught.value)
    assert "127.0.0.1:9/b: Connection refused" in str(caught.value)


def test_redirect_is_followed(server: Server, tmp_path: Path) -> None:
    server.add("real", BODY)
    server.redirects["/moved"] = f"{server.url}/real"
    server.cuts["/real"] = [30_000]
    assert download([f"{server.url}/moved"], tmp_path / "f").path.read_bytes() == BODY
    assert [path for path, _ in server.asked] == ["/moved", "/real"] * 2


def test_redirect_to_a_local_file_is_refused(server: Server, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("private")
    server.redirects["/moved"] = secret.as_uri()
    with pytest.raises(SourceFailed, match=r"isn't safe|not allowed"):
        download([f"{server.url}/moved"], tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_web_page_instead_of_the_file(server: Server, tmp_path: Path) -> None:
    url = server.add("f", b"<html>please sign in</html>")
    server.kinds["/f"] = "text/html; charset=utf-8"
    with pytest.raises(SourceFailed, match="web page"):
        download([url], tmp_path / "f")


def test_local_file_and_other_schemes(tmp_path: Path) -> None:
    source = tmp_path / "with space.bin"
    source.write_bytes(BODY)
    assert download([source.as_uri()], tmp_path / "f").path.read_bytes() == BODY
    for url in ("ftp://127.0.0.1/f", "data:,abc", "no address"):
        with pytest.raises(SourceFailed, match="only http, https, file"):
            download([url], tmp_path / "g")
    with pytest.raises(SourceFailed, match="No such file"):
        download([(tmp_path / "gone").as_uri()], tmp_path / "g")


def test_full_disk_while_writing_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.add("f", BODY)
    asked: list[str] = []

    def full(url: str, path: Path, *_: Any) -> None:
        asked.append(url)
        path.write_bytes(BODY[:30_000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_download_http", full)
    with pytest.raises(OSError, match="No space left"):
        download([url, url], tmp_path / "f")
    assert len(asked) == 1  # another source wouldn't help
    assert left(tmp_path) == []


def test_too_little_room_is_noticed_before_the_download(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskFull, match="1000 bytes free, but the file has 102400"):
        download([server.add("f", BODY)], tmp_path / "f")
    assert left(tmp_path) == []
