"""Writers of captured arrays into the store: full shards, or running top-k images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.capture.activations import Firing, TopKActivations
from clipdissect.capture.decoding import DecodeError
from clipdissect.similarity.inputs import TopActivations
from clipdissect.store import Damaged, Series, Shard
from clipdissect.store.entries import Rows, disk_errors_as_user_errors
from clipdissect.store.shards import read, write

Images = Int[Tensor, " images"]
Values = Float[Tensor, "images units"] | Float[Tensor, "images 2 latents"]
Skipped = Sequence[DecodeError]


class ShardWriter:
    """A writer of full activations: one file per shard."""

    def __init__(self, series: Series, about: dict[str, Any]) -> None:
        self.series, self.about = series, about

    def begin(self, grid: Sequence[Rows]) -> list[Rows]:
        """Prepare the entry for writing; return the missing shards."""
        self.series.begin(self.about)
        return self.series.missing(grid)

    def write(self, rows: Rows, images: Images, values: Values, skipped: Skipped) -> None:
        """Write a shard: values of its readable images, with their probe numbers.

        Of latents, the values are activations and shares of tokens; see `summarise_latents`.
        """
        names = ("values", "shares") if values.ndim == 3 else ("values",)
        arrays = values.unbind(1) if values.ndim == 3 else (values,)
        arrays_on_cpu = {name: array.cpu() for name, array in zip(names, arrays, strict=True)}
        self.series.write(rows, arrays_on_cpu, {"skipped": skipped})

    def finish(self, grid: Sequence[Rows]) -> list[Shard]:
        """Mark the entry as complete; return its shards."""
        return self.series.finish(grid)


@dataclass(frozen=True)
class _TopK:
    """Running top-k images, and the shards that they cover."""

    top: TopKActivations | None = None
    shards: tuple[Rows, ...] = ()
    skipped: tuple[DecodeError, ...] = ()
    firing: Firing | None = None  # of latents

    @classmethod
    def of(
        cls, values: Values, images: Images, k: int, rows: Rows, skipped: tuple[DecodeError, ...]
    ) -> _TopK:
        """Select the top images where the values are, and move them to the CPU."""
        if not len(values):
            return cls(None, (rows,), skipped)
        firing = Firing.of(values[:, 1]) if values.ndim == 3 else None
        activations = values[:, 0] if values.ndim == 3 else values
        top = TopKActivations.of(activations, images.to(values.device), k)
        return cls(top.to("cpu"), (rows,), skipped, firing)

    @classmethod
    def load(cls, shard: Shard) -> _TopK:
        arrays = shard.arrays()
        skipped = tuple(DecodeError(*row) for row in shard.about["skipped"])
        shards = tuple((start, stop) for start, stop in shard.about.get("covered", ()))
        if "values" not in arrays:
            return cls(None, shards, skipped)
        firing = None
        if "fires" in arrays:
            firing = Firing(arrays["fires"], arrays["shares"], int(arrays["images"]))
        top = TopActivations(arrays["values"], arrays["indices"], int(arrays["images"]))
        return cls(TopKActivations(top, arrays["distinct"]), shards, skipped, firing)

    def arrays(self) -> dict[str, Tensor]:
        if self.top is None:
            return {"images": torch.tensor(0)}
        top, firing = self.top.top, self.firing
        latents = {"fires": firing.images, "shares": firing.shares} if firing else {}
        return {
            **latents,
            "values": top.values,
            "indices": top.indices,
            "images": torch.tensor(top.images),
            "distinct": self.top.distinct,
        }

    def merged(self, other: _TopK, k: int) -> _TopK:
        tops = [state.top for state in (self, other) if state.top is not None]
        top = tops[0].merged(tops[1], k) if len(tops) == 2 else next(iter(tops), None)
        firings = [state.firing for state in (self, other) if state.firing is not None]
        firing = firings[0].merged(firings[1]) if len(firings) == 2 else next(iter(firings), None)
        shards = sorted([*self.shards, *other.shards])
        skipped = sorted([*self.skipped, *other.skipped])
        return _TopK(top, tuple(shards), tuple(skipped), firing)


class TopKWriter(ShardWriter):
    """A writer of the top `k` images per unit.

    Each process rewrites its own file after every shard. Shards with transient read errors go to
    another file and are computed again in the next run.
    """

    def __init__(self, series: Series, about: dict[str, Any], k: int, rank: int) -> None:
        super().__init__(series, about)
        self.k, self.rank = k, rank
        self.permanent, self.transient = _TopK(), _TopK()

    def begin(self, grid: Sequence[Rows]) -> list[Rows]:
        """Merge the files of earlier processes into one; return the missing shards."""
        self.series.begin(self.about)
        for stale in self.series.folder.glob("retry-*.part"):
            stale.unlink()
        parts = self._load("sure-*.part")
        base = _TopK()
        # Largest first: a smaller one that overlaps was merged into it before a process was killed.
        for state in sorted(parts.values(), key=lambda state: -len(state.shards)):
            if not set(base.shards) & set(state.shards):
                base = base.merged(state, self.k)
        if not set(base.shards) <= set(grid):
            base = _TopK()  # from shards of another size
        self._save("sure-base.part", base)
        for path in parts:
            if path.name != "sure-base.part":
                path.unlink()
        return [rows for rows in grid if rows not in base.shards]

    def write(self, rows: Rows, images: Images, values: Values, skipped: Skipped) -> None:
        parts = images, self.k, rows, tuple(skipped)
        try:
            state = _TopK.of(values, *parts)
        except torch.OutOfMemoryError:  # the networks fill the GPU
            state = _TopK.of(values.cpu(), *parts)
        if any(error.transient for error in skipped):
            self.transient = self.transient.merged(state, self.k)
            self._save(f"retry-{self.rank:05d}.part", self.transient)
        else:
            self.permanent = self.permanent.merged(state, self.k)
            self._save(f"sure-{self.rank:05d}.part", self.permanent)

    def finish(self, grid: Sequence[Rows]) -> list[Shard]:
        """Merge the processes' files into the entry's only shard."""
        state = _TopK()
        parts = self._load("*.part")
        for part in parts.values():
            state = state.merged(part, self.k)
        rows = (grid[0][0], grid[-1][1])
        self.series.write(rows, state.arrays(), {"skipped": state.skipped})
        shards = self.series.finish([rows])
        if not any(path.name.startswith("retry") for path in parts):
            for path in parts:
                path.unlink()
        return shards

    def _load(self, pattern: str) -> dict[Path, _TopK]:
        states = {}
        for path in sorted(self.series.folder.glob(pattern)):
            try:
                states[path] = _TopK.load(read(path))
            except Damaged:
                path.unlink()
        return states

    def _save(self, name: str, state: _TopK) -> None:
        about = {"covered": state.shards, "skipped": state.skipped}
        with disk_errors_as_user_errors(self.series.folder):
            write(self.series.folder / name, state.arrays(), about)


def read_top_k(shard: Shard) -> TopKActivations | None:
    """Return the running top-k images in a file; None if no image is readable."""
    return _TopK.load(shard).top


def read_firing(shard: Shard) -> Firing | None:
    """Return how often latents fire on the images of a file of top-k images."""
    return _TopK.load(shard).firing
