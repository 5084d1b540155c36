"""Reads what wandb writes offline: records of protobuf in LevelDB's log format.

A file is `:W&B`, a two-byte magic and a version; then blocks of 32 KiB, which hold chunks: checksum
(4 bytes), length (2), type (1: whole, 2: first, 3: middle, 4: last), data.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEAD, START = 32768, 7, 7
WHOLE, LAST = 1, 4


@dataclass
class Records:
    """Of one run: its record, config, logged values and artifacts."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)


def read(path: Path) -> Records:
    """All records of a file, once its last one is there."""
    from wandb.proto.wandb_internal_pb2 import Record

    for _ in range(100):  # the last record may reach the disk a moment after finish() returns
        records = [Record.FromString(data) for data in chunks(path.read_bytes())]
        if any(record.HasField("exit") for record in records):
            break
        time.sleep(0.1)
    found = Records()
    for record in records:
        if record.HasField("run"):
            found.run = record.run
            found.config |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
        for item in record.history.item:
            key = "/".join(item.nested_key) or item.key
            found.history[key] = json.loads(item.value_json)
        if record.HasField("artifact"):
            found.artifacts.append(record.artifact)
        if record.request.HasField("log_artifact"):
            found.artifacts.append(record.request.log_artifact.artifact)
    return found


def chunks(data: bytes) -> Iterator[bytes]:
    """The data of each record."""
    place, parts = START, []
    while place + HEAD <= len(data):
        if BLOCK - place % BLOCK < HEAD:  # what is left of a block is padding
            place += BLOCK - place % BLOCK
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts.append(data[place + HEAD : place + HEAD + length])
        place += HEAD + length
        if kind in (WHOLE, LAST):
            yield b"".join(parts)
            parts = []
