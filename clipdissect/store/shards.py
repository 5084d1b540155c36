"""One file of the store: arrays, facts, and a checksum of both."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from clipdissect.utils.files import FileIdentity, atomic, file_identity
from clipdissect.utils.memo import Memo

_CHUNK = 1 << 20
SETTLED_S = 2.0  # clocks of file systems are coarse: a later write may leave the same times


class Damaged(Exception):
    """A file of the store that differs from what was written; the message names it."""


@dataclass(frozen=True)
class Shard:
    """A verified file: its JSON-able facts, and the SHA-256 of facts and arrays."""

    path: Path
    about: dict[str, Any] = field(default_factory=dict)
    checksum: str = ""
    identity: FileIdentity | None = None  # when it was verified; None if it was just written

    @property
    def is_unchanged(self) -> bool:
        """Whether the file is the one that was verified."""
        return self.identity is not None and self.identity == file_identity(self.path)

    def arrays(self) -> dict[str, Tensor]:
        """Memory-map the arrays; raise `Damaged` if the file was changed or deleted."""
        try:
            with safe_open(self.path, framework="pt") as source:
                return {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise Damaged(f"{self.path} can't be read ({error})") from error


_verified: Memo[Shard] = Memo(4096)  # by path


def write(path: Path, arrays: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    """Write a file atomically; return its checksum. Equal contents give equal bytes."""
    plain = {name: array.detach().cpu().contiguous() for name, array in arrays.items()}
    facts = json.dumps(about, sort_keys=True)
    checksum = _examine(io.BytesIO(_raw(plain, "", facts)))[2]
    with atomic(path) as temporary:
        temporary.write_bytes(_raw(plain, checksum, facts))
    return checksum


def read(path: Path) -> Shard:
    """Read a file and verify its checksum; raise `Damaged` or FileNotFoundError.

    A file that this process has verified isn't read again while its times, size and inode are
    the same.
    """
    identity = file_identity(path)
    if identity is None:
        raise FileNotFoundError(path)
    if time.time() - max(identity[-2:]) / 1e9 < SETTLED_S:
        return verify(path)
    return _verified.get(
        path,
        lambda: replace(verify(path), identity=identity),
        lambda shard: shard.identity == identity,
    )


def verify(path: Path) -> Shard:
    """Read all of a file and compare its checksum; raise `Damaged`."""
    try:
        with path.open("rb") as source:
            about, expected, actual = _examine(source)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise Damaged(f"{path} can't be read ({error})") from error
    if expected != actual:
        raise Damaged(f"{path} was changed after writing (its checksum differs)")
    return Shard(path, about, expected)


def _raw(arrays: dict[str, Tensor], checksum: str, facts: str) -> bytes:
    # One metadata key: the order of several differs between processes.
    return save(arrays, {"about": json.dumps([checksum, facts])})


def _examine(source: IO[bytes]) -> tuple[dict[str, Any], str, str]:
    """Return the facts, the recorded checksum and the actual one."""
    # Read in chunks rather than mapped: a map's pages stay in memory as long as it does.
    length = int.from_bytes(source.read(8), "little")
    if length > 100_000_000:  # the format's own limit
        raise ValueError("no safetensors header")
    header = json.loads(source.read(length))
    expected, facts = json.loads(header.pop("__metadata__")["about"])
    sha = hashlib.sha256(facts.encode())
    sha.update(json.dumps(header, sort_keys=True).encode())
    while chunk := source.read(_CHUNK):
        sha.update(chunk)
    return json.loads(facts), expected, sha.hexdigest()
