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
    """A lack of disk space; another source wouldn't help."""


class SourceFailed(DissectError):
    """A failure of one source, or of all; the message gives the reason."""


class _Transient(Exception):
    """A failure that may not recur: a cut connection, an overloaded server."""


@dataclass(frozen=True)
class Download:
    """A downloaded file; `known` says whether a known digest was checked."""

    path: Path
    source: str  # the URL that served it
    sha256: str
    known: bool  # whether a digest known beforehand was checked


def download(
    urls: Sequence[str], path: Path, digest: str | None = None, size: int | None = None
) -> Download:
    """Download a file from the first URL that serves it; `path` appears once it is checked.

    `digest` is `sha256:` or `md5:` with all or the first hexadecimal digits, `size` in bytes.

    Raises:
        SourceFailed: no URL serves it; lists each with the reason.
    """
    reasons = []
    for url in urls:
        try:
            with atomic(path) as temporary:
                _retrieve(url, temporary, digest, size)
                checksum = _check(temporary, digest, size)
            return Download(path, url, checksum, digest is not None)
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
    """Raise before the download if this can't be the file or there is no room."""
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
    """Return the root cause of an error of requests, and whether it is transient."""
    import requests

    if isinstance(error, requests.HTTPError):
        answer: Any = error.response
        code = answer.status_code
        return f"the server says {code} {answer.reason}", code in TRANSIENT_CODES
    cause: BaseException = error
    while following := cause.__cause__ or cause.__context__:
        cause = following
    if isinstance(cause, socket.gaierror):
        return "unknown host (no network?)", False
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
    """Return whether a file has a digest: `sha256:` or `md5:` and first digits."""
    kind, _, value = digest.partition(":")
    return bool(file_hash(path, kind).startswith(value))
