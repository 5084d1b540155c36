"""Download one file with pooch from the first URL that serves it, or copy a `file://` URL."""

from __future__ import annotations

import errno
import logging
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import url2pathname

from pooch import HTTPDownloader, file_hash

from clipdissect._version import __version__
from clipdissect.errors import DissectError
from clipdissect.utils.files import atomic

log = logging.getLogger(__name__)

CHUNK = 1 << 20
TIMEOUT_S = 30.0
ATTEMPTS = 4
BACKOFF_S = 1.0  # doubled after each failed attempt
TRANSIENT_CODES = (408, 425, 429, 500, 502, 503, 504)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFull(DissectError):
    """There is no room for a file; another source wouldn't help."""


class SourceFailed(DissectError):
    """One source, or all of them, can't give the file; the message says why."""


class _Transient(Exception):
    """A failure that may not recur: a cut connection, an overloaded server."""


@dataclass(frozen=True)
class Download:
    """A downloaded file.

    Args:
        path: where it is.
        source: the URL that served it.
        sha256: of its bytes, hexadecimal.
        known: whether a digest known beforehand was checked.
    """

    path: Path
    source: str
    sha256: str
    known: bool


def download(
    urls: Sequence[str], path: Path, digest: str | None = None, size: int | None = None
) -> Download:
    """Download a file from the first URL that serves it.

    Args:
        urls: tried in order.
        path: nothing is there until the file is complete and checked.
        digest: `sha256:` or `md5:` and hexadecimal digits, all or the first ones.
        size: bytes, if known exactly.

    Raises:
        SourceFailed: no URL serves it; lists each with the reason.
        DiskFull: there is no room.
    """
    reasons = []
    for url in urls:
        try:
            with atomic(path) as temporary:
                _retrieve(url, temporary, digest, size)
                found = _check(temporary, digest, size)
            return Download(path, url, found, digest is not None)
        except SourceFailed as failed:
            log.info("%s: %s", url, failed)
            reasons.append(f"{url}: {failed}")
    raise SourceFailed("\n".join(reasons) or "no public address is known")


def _retrieve(url: str, path: Path, digest: str | None, size: int | None) -> None:
    parts = urlsplit(url)
    if parts.scheme == "file":
        try:
            shutil.copyfile(url2pathname(unquote(parts.path)), path)
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise SourceFailed(str(error.strerror)) from error
        return
    if parts.scheme not in ("http", "https"):
        raise SourceFailed("only http, https, file addresses are fetched")
    for attempt in range(ATTEMPTS):
        try:
            _download_http(url, path, digest, size)
            return
        except _Transient as error:
            if attempt == ATTEMPTS - 1:
                raise SourceFailed(str(error)) from error
            log.info("%s: %s; trying again", url, error)
            time.sleep(BACKOFF_S * 2**attempt)


def _download_http(url: str, path: Path, digest: str | None, size: int | None) -> None:
    import requests

    def check_response(response: Any, **_: Any) -> None:
        if response.is_redirect:
            _check_redirect(response)
        elif response.ok:
            _check_headers(response, path, digest, size)

    retrieve = HTTPDownloader(
        progressbar=sys.stderr.isatty(),
        chunk_size=CHUNK,
        timeout=TIMEOUT_S,
        headers={"User-Agent": f"clipdissect/{__version__}", "Accept-Encoding": "identity"},
        hooks={"response": check_response},
    )
    log.info("downloading %s", url)
    try:
        retrieve(url, str(path), None)
    except requests.RequestException as error:
        reason, is_transient = _failure(error)
        raise (_Transient if is_transient else SourceFailed)(reason) from error


def _check_redirect(response: Any) -> None:
    target = urljoin(response.url, response.headers["Location"])
    schemes = ("https",) if response.url.startswith("https:") else ("http", "https")
    if urlsplit(target).scheme not in schemes:
        raise SourceFailed(f"it redirects to {target}, which isn't safe to follow")


def _check_headers(response: Any, path: Path, digest: str | None, size: int | None) -> None:
    """Refuse before the download what can't be the file, or has no room."""
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else None
    if total is not None and size is not None and total != size:
        raise SourceFailed(f"its file has {total} bytes, expected {size}")
    if digest is None and response.headers.get("Content-Type", "").startswith("text/html"):
        raise SourceFailed("it answers with a web page instead of the file")
    free = shutil.disk_usage(path.parent).free
    if (total or size or 0) > free:
        raise DiskFull(f"{path.parent} has {free} bytes free, but the file has {total or size}")


def _failure(error: Any) -> tuple[str, bool]:
    """Return the root cause of an error of requests, and whether another attempt may succeed."""
    import requests

    if isinstance(error, requests.HTTPError):
        answer: Any = error.response
        code = answer.status_code
        return f"the server says {code} {answer.reason}", code in TRANSIENT_CODES
    cause: BaseException = error
    while following := cause.__cause__ or cause.__context__:
        cause = following
    if isinstance(cause, socket.gaierror):
        return "the host isn't known (no network here?)", False
    permanent = isinstance(cause, ConnectionRefusedError) or isinstance(
        error, (requests.exceptions.SSLError, requests.exceptions.InvalidURL, ValueError)
    )
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__, not permanent


def _check(path: Path, digest: str | None, size: int | None) -> str:
    """Return the file's SHA-256 after comparing its digest and size."""
    if digest is not None and not digest_matches(path, digest):
        kind, _, value = digest.partition(":")
        raise SourceFailed(f"its {kind} is {file_hash(path, kind)}, expected {value}")
    if size is not None and path.stat().st_size != size:
        raise SourceFailed(f"its file has {path.stat().st_size} bytes, expected {size}")
    return sha256(path)


def sha256(path: Path) -> str:
    """Return a file's SHA-256, hexadecimal."""
    digest: str = file_hash(path, "sha256")
    return digest


def digest_matches(path: Path, digest: str) -> bool:
    """Whether a file has a digest: `sha256:` or `md5:` and hexadecimal digits, all or the first."""
    kind, _, value = digest.partition(":")
    return bool(file_hash(path, kind).startswith(value))
