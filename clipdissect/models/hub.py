"""Access to the Hugging Face hub that works offline."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from clipdissect.utils.dependencies import depends_on

CONNECT_SECONDS = 3.0


@contextmanager
def asked_once() -> Iterator[None]:
    """Limit the hub's library to its cache if the hub is unreachable, without retries."""
    from huggingface_hub import constants

    # By itself the library retries for half a minute before it reports that there is no network.
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def cache_folder(cache: str | None) -> str:
    from huggingface_hub import constants

    return cache or str(constants.HF_HUB_CACHE)


def depends_on_repository(name: str, cache: str | None = None) -> None:
    """Note that what is built depends on a repository of the hub's cache, or a folder so named."""
    cached = Path(cache_folder(cache)).expanduser()
    depends_on(Path(name), cached / f"models--{name.replace('/', '--')}")


def _reachable(endpoint: str) -> bool:
    if getproxies():  # the proxy resolves the hub's address
        return True
    parts = urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
