"""Shared parts of WPMI and SoftWPMI: the softmax over all concepts and the top images."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.similarity import checks, kernels
from clipdissect.similarity.base import Activations, Plan, Similarity
from clipdissect.similarity.ranking import as_top
from clipdissect.similarity.sources import Blocks, Budget, Source, concept_blocks, rows_at_once

# exp(40) times any number of concepts, and exp(-40), are normal float32 numbers.
_SAFE_EXPONENT = 40.0
_NUMBERS_AT_ONCE = 250_000
# exp(-80) is far enough above the smallest normal float32, exp(-87.3), for rounding to be normal.
_SAFE_PRODUCT = 80.0
_LARGEST_GROUP = 32


class Factors(NamedTuple):
    """The factors `base_i + weight_i * s_im` of `exp(L_km)`, and their lower bound."""

    base: Float[Tensor, "units_or_1 k"]
    weight: Float[Tensor, "units_or_1 k"]
    smallest: float


class MutualInformation(Similarity):
    """The base of WPMI and SoftWPMI: `sim = L_km - lam * log p(t_m)`."""

    a: float
    lam: float
    top_k: int
    eps: float
    needs_all: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("a", self.a, above=0)
        checks.number("lam", self.lam, least=0)
        checks.number("top_k", self.top_k, least=1, whole=True)
        checks.number("eps", self.eps, least=0, below=1)

    @property
    def images_per_unit(self) -> int:
        return self.top_k

    @abstractmethod
    def factors(self, values: Float[Tensor, "k units"]) -> Factors:
        """Return the factors of `L_km` from the top activations, best first."""

    def _plan(self, source: Source, q: Activations) -> Plan:
        top = as_top(q, self.top_k, source.images, "top_k")
        rows, index = union(top.indices, source.images)
        (base, weight, smallest), units = self.factors(top.values), len(index)
        layers, extra = top.layers, top.extra
        del top
        group = safe_group(smallest)
        # In use: P, its exponentials, and the scores.
        floats = len(rows) + 2 * rows_at_once(source.device) + 2 * units
        blocks = concept_blocks(source.concepts, floats, self.memory_gb, source.device)
        exponentials = Exponentials(source.take(rows), blocks, self.a, self.memory_gb)
        inverse, magnitudes = exponentials.inverse, base.new_zeros(units)

        def scores(start: int, stop: int) -> Float[Tensor, "units block"]:
            block = exponentials.take(start, stop)
            joint = kernels.log_product_sums(block, index, inverse, base, weight, group)
            grow(magnitudes, joint)
            return kernels.less_marginal(joint, self.lam, layers, extra)

        return Plan(units, blocks, scores, magnitudes)


def union(
    indices: Int[Tensor, "k units"], images: int
) -> tuple[Int[Tensor, " selected"], Int[Tensor, "units k"]]:
    """Return the images in any unit's top, and each unit's top as positions among them."""
    seen = torch.zeros(images, dtype=torch.bool, device=indices.device)
    seen[indices.reshape(-1)] = True
    position = (seen.cumsum(0) - 1).int()
    k, units = indices.shape
    out = torch.empty(units, k, dtype=torch.int32, device=indices.device)
    step = max(1, _NUMBERS_AT_ONCE // k)
    for first in range(0, units, step):
        out[first : first + step] = position[indices[:, first : first + step].T]
    return seen.nonzero()[:, 0], out


class Exponentials:
    """`exp(a * P - shift_i)` by blocks of concepts, and the logarithms of its sums over all.

    The softmax (Eq. (13), with the released temperature) needs two passes over P. The first
    caches blocks up to a share of the budget, none unless `keep`; the rest are recomputed.
    """

    def __init__(
        self,
        source: Source,
        blocks: Blocks,
        a: float,
        memory_gb: float | None,
        keep: bool = True,
    ) -> None:
        self._source, self._a = source, a
        self._cache: dict[tuple[int, int], Tensor] = {}
        # A shift by the image's largest exponent costs a pass; skipped if exp stays in range.
        self._shift = None if a * source.largest() <= _SAFE_EXPONENT else self._largest(blocks)
        budget = Budget.of(memory_gb, source.device)
        bytes_left = budget.kept if keep else 0
        # Float64: a sum over many thousand concepts in float32 would lose digits.
        sums = torch.zeros(source.images, dtype=torch.float64, device=source.device)
        for start, stop in blocks:
            bytes_left -= 4 * source.images * (stop - start)
            if bytes_left >= 0:
                self._cache[start, stop] = self._compute(start, stop, sums)
            else:
                for rows, chunk in self._source.chunks(start, stop):
                    self._exponentials(rows, chunk, chunk, sums)
        self._sums = sums

    @property
    def log_normaliser(self) -> Float[Tensor, " images"]:
        """Return `logsumexp_m(a * P_im)`, float64."""
        logs = self._sums.log()
        return logs if self._shift is None else logs + self._shift

    @property
    def inverse(self) -> Float[Tensor, " images"]:
        """Return the inverse denominators of the softmax, float32."""
        return self._sums.reciprocal().float()

    def take(self, start: int, stop: int) -> Float[Tensor, "images block"]:
        """Return a block of exponentials and drop it from the cache."""
        cached = self._cache.pop((start, stop), None)
        return self._compute(start, stop) if cached is None else cached

    def _compute(
        self, start: int, stop: int, sums: Float[Tensor, " images"] | None = None
    ) -> Float[Tensor, "images block"]:
        """Compute a block of exponentials and add its row sums to `sums`."""
        out = torch.empty(
            self._source.images, stop - start, dtype=torch.float32, device=self._source.device
        )
        for rows, chunk in self._source.chunks(start, stop):
            self._exponentials(rows, chunk, out[rows], sums)
        return out

    def _exponentials(
        self,
        rows: slice,
        chunk: Float[Tensor, "rows block"],
        out: Float[Tensor, "rows block"],
        sums: Float[Tensor, " images"] | None,
    ) -> None:
        shift = None if self._shift is None else self._shift[rows]
        kernels.exponentials(chunk, self._a, shift, out, None if sums is None else sums[rows])

    def _largest(self, blocks: Blocks) -> Float[Tensor, " images"]:
        out = torch.full(
            (self._source.images,), -torch.inf, dtype=torch.float32, device=self._source.device
        )
        for start, stop in blocks:
            for rows, chunk in self._source.chunks(start, stop):
                out[rows] = torch.maximum(out[rows], chunk.amax(dim=1))
        return out.mul_(self._a)


def grow(magnitudes: Float[Tensor, " units"], joint: Float[Tensor, "units block"]) -> None:
    """Raise each unit's magnitude in place to the largest `-L_km` of a block."""
    torch.maximum(magnitudes, joint.amin(1).neg_(), out=magnitudes)


def safe_group(smallest: float, largest: float = 1.0) -> int:
    """Return how many factors within bounds multiply without under- or overflow in float32."""
    size = max(-math.log(smallest), math.log(largest))
    return max(1, min(_LARGEST_GROUP, int(_SAFE_PRODUCT / size))) if size > 0 else _LARGEST_GROUP
