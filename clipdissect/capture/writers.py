"""Where captured arrays go: shard by shard into the store, whole or as running top images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.capture.activations import TopKActivations
from clipdissect.similarity.inputs import TopActivations
from clipdissect.store import Damaged, Series, Shard
from clipdissect.store.entries import Rows, worded
from clipdissect.store.shards import read, write

Skips = list[tuple[int, str, bool]]  # image, reason, whether it may pass


@dataclass(frozen=True)
class Piece:
    """What a shard's images gave in one layer.

    Args:
        rows: the shard's images, `start, stop`.
        images: numbers of the readable ones.
        values: theirs.
        skipped: the others.
    """

    rows: Rows
    images: Int[Tensor, " images"]
    values: Float[Tensor, "images units"]
    skipped: Skips

    @property
    def may_pass(self) -> bool:
        """Whether an image failed for a reason that may not last."""
        return any(passing for *_, passing in self.skipped)


class Sink(ABC):
    """One entry that is being captured.

    Args:
        series: its place in the store.
        about: what it is, for listings.
        rank: the process's number in its team.
    """

    def __init__(self, series: Series, about: dict[str, Any], rank: int = 0) -> None:
        self.series, self.about, self.rank = series, about, rank

    @abstractmethod
    def begin(self, grid: Sequence[Rows]) -> list[Rows]:
        """Get the entry ready to be written on; returns the shards that are missing."""

    @abstractmethod
    def put(self, piece: Piece) -> None:
        """Keep a shard for good."""

    @abstractmethod
    def finish(self, grid: Sequence[Rows]) -> list[Shard]:
        """Mark the entry as whole; returns its shards."""


class Full(Sink):
    """All activations: one file a shard."""

    def begin(self, grid: Sequence[Rows]) -> list[Rows]:
        """Whole shards stay; the others are missing."""
        self.series.begin(self.about)
        return self.series.missing(grid)

    def put(self, piece: Piece) -> None:
        """Write the shard's file."""
        self.series.write(piece.rows, {"values": piece.values}, {"skipped": piece.skipped})

    def finish(self, grid: Sequence[Rows]) -> list[Shard]:
        """Write the manifest."""
        return self.series.finish(grid)


@dataclass(frozen=True)
class _State:
    """Running top images, and which shards they were taken from."""

    kept: TopKActivations | None = None
    covered: tuple[Rows, ...] = ()
    skipped: Skips = field(default_factory=list)

    def joined(self, other: _State, k: int) -> _State:
        pair = [s.kept for s in (self, other) if s.kept is not None]
        kept = pair[0].merged(pair[1], k) if len(pair) == 2 else (pair[0] if pair else None)
        return _State(
            kept, _tidy([*self.covered, *other.covered]), sorted([*self.skipped, *other.skipped])
        )


class Top(Sink):
    """Every unit's `k` top images only.

    Each process rewrites a file of its own after every shard. An image that failed for a reason
    that may pass spoils no more than its shard: that one goes to another file and is redone next
    time.

    Args:
        series, about, rank: see `Sink`.
        k: images to keep.
    """

    def __init__(self, series: Series, about: dict[str, Any], k: int, rank: int = 0) -> None:
        super().__init__(series, about, rank)
        self.k = k
        self.sure, self.unsure = _State(), _State()

    def begin(self, grid: Sequence[Rows]) -> list[Rows]:
        """Join what earlier processes left in one file; the shards it lacks are missing."""
        self.series.begin(self.about)
        for stale in self.series.folder.glob("retry-*.part"):
            stale.unlink()
        parts = self._parts("sure-*.part")
        base = _State()
        # Largest first: a smaller one that overlaps is a leftover of an earlier join.
        for state in sorted(parts.values(), key=lambda s: -_size(s.covered)):
            if not _overlap(base.covered, state.covered):
                base = base.joined(state, self.k)
        if any(rows not in grid for rows in _cut(base.covered, grid)):
            base = _State()  # made with shards of another size
        self._write("sure-base.part", base)
        for path in parts:
            if path.name != "sure-base.part":
                path.unlink()
        done = set(_cut(base.covered, grid))
        return [rows for rows in grid if rows not in done]

    def put(self, piece: Piece) -> None:
        """Merge the shard into this process's running top images, and write them."""
        kept = None
        if len(piece.values):
            kept = TopKActivations.of(piece.values, piece.images, self.k)
        new = _State(kept, (piece.rows,), piece.skipped)
        if piece.may_pass:
            self.unsure = self.unsure.joined(new, self.k)
            self._write(f"retry-{self.rank:05d}.part", self.unsure)
        else:
            self.sure = self.sure.joined(new, self.k)
            self._write(f"sure-{self.rank:05d}.part", self.sure)

    def finish(self, grid: Sequence[Rows]) -> list[Shard]:
        """Join the processes' files into the entry's one shard."""
        state = _State()
        parts = self._parts("*.part")
        for part in parts.values():
            state = state.joined(part, self.k)
        rows = (grid[0][0], grid[-1][1])
        self.series.write(rows, _arrays(state), {"skipped": state.skipped})
        found = self.series.finish([rows])
        if not any(path.name.startswith("retry") for path in parts):
            for path in parts:
                path.unlink()
        return found

    def _parts(self, pattern: str) -> dict[Path, _State]:
        found = {}
        for path in sorted(self.series.folder.glob(pattern)):
            try:
                found[path] = _load(read(path))
            except Damaged:
                path.unlink()
        return found

    def _write(self, name: str, state: _State) -> None:
        about = {"covered": state.covered, "skipped": state.skipped}
        with worded(self.series.folder):
            write(self.series.folder / name, _arrays(state), about)


def kept_of(shard: Shard) -> TopKActivations | None:
    """The running top images in a file; None where no image could be read."""
    return _load(shard).kept


def _load(shard: Shard) -> _State:
    arrays = shard.arrays()
    skipped = [(i, why, passing) for i, why, passing in shard.about["skipped"]]
    covered = tuple((a, b) for a, b in shard.about.get("covered", ()))
    if "values" not in arrays:
        return _State(None, covered, skipped)
    top = TopActivations(arrays["values"], arrays["indices"], int(arrays["images"]))
    return _State(TopKActivations(top, arrays["distinct"]), covered, skipped)


def _arrays(state: _State) -> dict[str, Tensor]:
    if state.kept is None:
        return {"images": torch.tensor(0)}
    top = state.kept.top
    return {"values": top.values, "indices": top.indices, "images": torch.tensor(top.images),
            "distinct": state.kept.distinct}  # fmt: skip


def _tidy(ranges: Sequence[Rows]) -> tuple[Rows, ...]:
    """Neighbouring ranges joined."""
    tidy: list[Rows] = []
    for start, stop in sorted(ranges):
        if tidy and tidy[-1][1] == start:
            tidy[-1] = (tidy[-1][0], stop)
        else:
            tidy.append((start, stop))
    return tuple(tidy)


def _cut(covered: Sequence[Rows], grid: Sequence[Rows]) -> list[Rows]:
    """Covered ranges as shards of the grid; what doesn't fit it comes back as it is."""
    cut: list[Rows] = []
    for start, stop in covered:
        inside = [rows for rows in grid if start <= rows[0] and rows[1] <= stop]
        whole = bool(inside) and (inside[0][0], inside[-1][1]) == (start, stop)
        cut += inside if whole else [(start, stop)]
    return cut


def _overlap(a: Sequence[Rows], b: Sequence[Rows]) -> bool:
    return any(x[0] < y[1] and y[0] < x[1] for x in a for y in b)


def _size(covered: Sequence[Rows]) -> int:
    return sum(stop - start for start, stop in covered)
