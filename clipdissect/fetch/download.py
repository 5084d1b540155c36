"""Downloading one file over http(s), or copying it from a `file://` address."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, InvalidURL
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from clipdissect._version import __version__
from clipdissect.errors import DissectError
from clipdissect.utils.files import matches, sums

log = logging.getLogger(__name__)

SCHEMES = ("http", "https", "file")
CHUNK = 1 << 20
TIMEOUT_S = 30.0
TRIES = 4  # failures in a row without a byte more
WAIT_S = 1.0  # doubled after each failure
PASSING_CODES = (408, 425, 429, 500, 502, 503, 504)
LASTING = (
    socket.gaierror,
    ConnectionRefusedError,
    FileNotFoundError,
    InvalidURL,
    ssl.SSLCertVerificationError,
    ValueError,
    str,
)
FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFull(DissectError):
    """There is no room for a file; another source wouldn't help."""


class SourceFailed(DissectError):
    """One source, or all of them, can't give the file; the message says why."""


class _Passing(Exception):
    """Something that another try may mend: a cut connection, an overloaded server."""


@dataclass(frozen=True)
class Got:
    """A file that was downloaded.

    Args:
        path: where it is.
        source: the address that gave it.
        sha256: of its bytes, hexadecimal.
        known: whether a digest known beforehand was checked.
    """

    path: Path
    source: str
    sha256: str
    known: bool


def download(
    urls: Sequence[str], path: Path, digest: str | None = None, size: int | None = None
) -> Got:
    """Download a file from the first address that can give it.

    What has come of a file that was cut stays beside `path` as `<name>.part`, and the next call
    goes on from there, if the server can and its file hasn't changed (`If-Range`).

    Args:
        urls: addresses, in order.
        path: where to put it; nothing is there until the file is complete and checked.
        digest: `sha256:` or `md5:` and hexadecimal digits, all or the first ones.
        size: bytes, where known exactly.

    Raises:
        SourceFailed: no address gives it; lists each with the reason.
        DiskFull: there is no room.
    """
    part = _Part(path)
    reasons = []
    for url in urls:
        try:
            _complete(url, part, digest, size)
            sha256 = _checked(part.path, digest, size)
        except SourceFailed as failed:
            log.info("%s: %s", url, failed)
            reasons.append(f"{url}: {failed}")
            continue
        part.settle()
        return Got(path, url, sha256, digest is not None)
    raise SourceFailed("\n".join(reasons) or "no public address is known")


class _Part:
    """The growing file, and a note of what it is a part of."""

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final.with_name(f"{final.name}.part")
        self.note = final.with_name(f"{final.name}.part.json")

    def have(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def headers(self, url: str, digest: str | None) -> dict[str, str]:
        """What to ask the server for: the rest, where it can be told that it is the same file."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        validator = note.get("validator")
        if not self.have() or note.get("url") != url or not (validator or digest):
            return {}
        return {"Range": f"bytes={self.have()}-"} | ({"If-Range": validator} if validator else {})

    def remember(self, url: str, answer: HTTPMessage) -> None:
        etag = answer.get("ETag", "")
        strong = etag if etag and not etag.startswith("W/") else None
        note = {"url": url, "validator": strong or answer.get("Last-Modified")}
        self.note.write_text(json.dumps(note), encoding="utf-8")

    def settle(self) -> None:
        with self.path.open("rb+") as written:
            os.fsync(written.fileno())
        self.path.replace(self.final)
        self.note.unlink(missing_ok=True)

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


class _Redirects(HTTPRedirectHandler):
    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        new = urlsplit(newurl).scheme
        if new not in ("http", "https") or (req.type == "https" and new == "http"):
            raise SourceFailed(f"it redirects to {newurl}, which isn't safe to follow")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _complete(url: str, part: _Part, digest: str | None, size: int | None) -> None:
    """Try until the file is there, or there is no sense in trying."""
    part.path.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = part.have()
        try:
            _attempt(url, part, digest, size)
            return
        except _Passing as error:
            failures = 0 if part.have() > before else failures + 1
            if failures >= TRIES:
                raise SourceFailed(str(error)) from error
            log.info("%s: %s; trying again", url, error)
            time.sleep(WAIT_S * 2**failures)


def _attempt(url: str, part: _Part, digest: str | None, size: int | None) -> None:
    headers = part.headers(url, digest)
    try:
        answer = _open(url, headers)
    except HTTPError as error:
        if error.code != 416:
            raise _worded(error) from error
        if error.headers.get("Content-Range") == f"bytes */{part.have()}":
            return  # all of it was there already
        part.drop()
        raise _Passing("the server's file has changed") from error
    with answer:
        start = _start(answer, part.have()) if headers else 0
        total = _total(answer, start)
        _refuse_other(answer, total, digest, size)
        _check_room(part.path, (total or size or 0) - start)
        part.remember(url, answer.headers)
        _copy(answer, part.path, start, total, size)
    if total is not None and part.have() < total:
        raise _Passing(f"the connection was cut after {part.have()} of {total} bytes")


def _open(url: str, headers: Mapping[str, str]) -> Any:
    if urlsplit(url).scheme not in SCHEMES:
        raise SourceFailed(f"only {', '.join(SCHEMES)} addresses are fetched")
    always = {"User-Agent": f"clipdissect/{__version__}", "Accept-Encoding": "identity"}
    try:
        request = Request(url, headers={**always, **headers})
        return build_opener(_Redirects).open(request, timeout=TIMEOUT_S)
    except HTTPError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, LASTING):
            raise SourceFailed(_lasting(reason)) from error
        raise _Passing(str(reason) or type(reason).__name__) from error


def _lasting(reason: object) -> str:
    if isinstance(reason, socket.gaierror):
        return "the host isn't known (no network here?)"
    return getattr(reason, "strerror", None) or str(reason)


def _worded(error: HTTPError) -> Exception:
    said = f"the server says {error.code} {error.reason}"
    return _Passing(said) if error.code in PASSING_CODES else SourceFailed(said)


def _start(answer: Any, have: int) -> int:
    """Where the answer's bytes begin: at `have`, or at 0 where the server sends the whole."""
    if answer.status != 206:
        return 0
    if not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        raise SourceFailed("the server sends another range than was asked for")
    return have


def _total(answer: Any, start: int) -> int | None:
    length = answer.headers.get("Content-Length")
    return start + int(length) if length and length.isdigit() else None


def _refuse_other(answer: Any, total: int | None, digest: str | None, size: int | None) -> None:
    """Notice before the download what can't be the file."""
    if None not in (total, size) and total != size:
        raise SourceFailed(f"its file has {total} bytes, expected {size}")
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise SourceFailed("it sends the file packed, which wasn't asked for")
    if digest is None and answer.headers.get_content_type() == "text/html":
        raise SourceFailed("it answers with a web page instead of the file")


def _copy(answer: Any, path: Path, start: int, total: int | None, size: int | None) -> None:
    name = path.name.removesuffix(".part")
    bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=None)
    with path.open("ab" if start else "wb") as out, bar:
        while chunk := _read(answer):
            _write(out, chunk)
            bar.update(len(chunk))
            if size is not None and out.tell() > size:
                raise SourceFailed(f"it sends more than the {size} bytes of the file")


def _read(answer: Any) -> bytes:
    try:
        chunk: bytes = answer.read(CHUNK)
    except (OSError, HTTPException) as error:
        raise _Passing(str(error) or type(error).__name__) from error
    return chunk


def _write(out: IO[bytes], chunk: bytes) -> None:
    out.write(chunk)


def _check_room(path: Path, wanted: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if wanted > free:
        raise DiskFull(f"{path.parent} has {free} bytes free, and {wanted} are to come")


def _checked(path: Path, digest: str | None, size: int | None) -> str:
    """The file's SHA-256, after comparing it; a wrong file is removed."""
    found = sums(path)
    wrong = None
    if digest is not None and not matches(found, digest):
        kind, _, value = digest.partition(":")
        wrong = f"its {kind} is {found[kind]}, expected {value}"
    elif size is not None and path.stat().st_size != size:
        wrong = f"its file has {path.stat().st_size} bytes, expected {size}"
    if wrong:
        _Part(path.with_name(path.name.removesuffix(".part"))).drop()
        raise SourceFailed(wrong)
    return found["sha256"]
