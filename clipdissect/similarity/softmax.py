"""The parts WPMI and SoftWPMI share: the softmax over all concepts and each unit's images."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.similarity.blocks import Blocks
from clipdissect.similarity.sources import Source

# exp(40) times any number of concepts, and exp(-40), are normal float32 numbers.
_SAFE_EXPONENT = 40.0
# Share of the budget for blocks kept for the second pass. All functions together stay below a
# third of what a dense P and its softmax take at the sizes of the benchmark.
_KEPT_SHARE = 0.16
_NUMBERS_AT_ONCE = 250_000
# exp(-80) is far enough above the smallest normal float32, exp(-87.3), for rounding to be normal.
_SAFE_PRODUCT = 80.0
_LARGEST_GROUP = 32


def union(
    indices: Int[Tensor, "k units"], images: int
) -> tuple[Int[Tensor, " some"], Int[Tensor, "units k"]]:
    """The images that are among the top of any unit, and each unit's as places among those."""
    seen = torch.zeros(images, dtype=torch.bool, device=indices.device)
    seen[indices.reshape(-1)] = True
    place = (seen.cumsum(0) - 1).int()
    k, units = indices.shape
    out = torch.empty(units, k, dtype=torch.int32, device=indices.device)
    step = max(1, _NUMBERS_AT_ONCE // k)
    for first in range(0, units, step):
        out[first : first + step] = place[indices[:, first : first + step].T]
    return seen.nonzero()[:, 0], out


class Exponentials:
    """`exp(a * P - shift_i)` of blocks of concepts, and the logarithms of its sums over all.

    The softmax needs two passes over P: one for its denominators, one for the scores. Products and
    exponentials of the first pass are kept for the second up to a share of the budget, and handed
    out once; the rest is computed again. The softmax itself is `exp(...) * inverse_i`, which the
    scores multiply in where they read a number anyway.

    The shift is 0 where no exponent can leave what float32 holds, as with cosines and a usual
    temperature; else each image's largest exponent, found in one more pass.

    Args:
        source: P of the images that matter.
        blocks: ranges that cover all concepts.
        a: inverse temperature.
        memory_gb: budget of which a share is for what is kept.
        keep: false where the denominators are all that is wanted.

    Source: Eq. (13), with the temperature of the released code.
    """

    def __init__(
        self, source: Source, blocks: Blocks, a: float, memory_gb: float, keep: bool = True
    ) -> None:
        self._source, self._a = source, a
        self._kept: dict[tuple[int, int], Tensor] = {}
        self._shift = None if a * source.largest() <= _SAFE_EXPONENT else self._largest(blocks)
        left = int(memory_gb * 1e9 * _KEPT_SHARE) if keep else 0
        sums = torch.zeros(source.images, dtype=torch.float64, device=source.device)
        for start, stop in blocks:
            left -= 4 * source.images * (stop - start)
            if left >= 0:
                self._kept[start, stop] = self._computed(start, stop, sums)
            else:
                for rows, part in self._chunks(start, stop):
                    sums[rows] += part.exp_().sum(dim=1)
        self._sums = sums

    @property
    def log_normaliser(self) -> Float[Tensor, " images"]:
        """`logsumexp_m(a * P_im)`, float64."""
        logs = self._sums.log()
        return logs if self._shift is None else logs + self._shift

    @property
    def inverse(self) -> Float[Tensor, " images"]:
        """What makes the exponentials of an image probabilities, float32."""
        return self._sums.reciprocal().float()

    def take(self, start: int, stop: int) -> Float[Tensor, "images block"]:
        """A block of exponentials; no longer kept."""
        kept = self._kept.pop((start, stop), None)
        return self._computed(start, stop) if kept is None else kept

    def _computed(
        self, start: int, stop: int, sums: Float[Tensor, " images"] | None = None
    ) -> Float[Tensor, "images block"]:
        """A block of exponentials; adds its sums to the given ones."""
        out = torch.empty(
            self._source.images, stop - start, dtype=torch.float32, device=self._source.device
        )
        for rows, part in self._chunks(start, stop):
            torch.exp(part, out=out[rows])
            if sums is not None:
                sums[rows] += out[rows].sum(dim=1)
        return out

    def _chunks(self, start: int, stop: int) -> Iterator[tuple[slice, Float[Tensor, "rows block"]]]:
        """Exponents of a block, some images at a time."""
        for rows, part in self._source.chunks(start, stop):
            part.mul_(self._a)
            if self._shift is not None:
                part.sub_(self._shift[rows, None])
            yield rows, part

    def _largest(self, blocks: Blocks) -> Float[Tensor, " images"]:
        """The largest `a * P_im` of every image."""
        out = torch.full(
            (self._source.images,), -torch.inf, dtype=torch.float32, device=self._source.device
        )
        for start, stop in blocks:
            for rows, part in self._source.chunks(start, stop):
                out[rows] = torch.maximum(out[rows], part.amax(dim=1))
        return out.mul_(self._a)


def grow(magnitudes: Float[Tensor, " units"], joint: Float[Tensor, "units block"]) -> None:
    """Raise each unit's magnitude, in place, to that of its largest sum of logarithms in a block.

    Args:
        magnitudes: as of `Plan`; 0 at first.
        joint: sums of logarithms of probabilities, so below 0.
    """
    torch.maximum(magnitudes, joint.amin(1).neg_(), out=magnitudes)


def safe_group(smallest: float, largest: float = 1.0) -> int:
    """How many factors can be multiplied in float32 without underflow or overflow.

    Args:
        smallest, largest: bounds of the factors.
    """
    size = max(-math.log(smallest), math.log(largest))
    return max(1, min(_LARGEST_GROUP, int(_SAFE_PRODUCT / size))) if size > 0 else _LARGEST_GROUP
