"""What the metrics of units and labels are made of, float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from clipdissect.scores.kernels import Entries, RankedSums, ranked_sums

TOP_SHARE = 0.002  # of the images that the top ones of `drawn` are drawn from
DRAWN = 25  # top images, and as many random ones
_LEAST = 1e-8  # concept values are clamped to it before a logarithm

Matrix = Float[Tensor, "units concepts"]


@dataclass(frozen=True)
class RankedColumns:
    """Numbers per image and column (a unit, or a concept), each column ranked; and moments."""

    raw: Float[Tensor, "images columns"]
    order: Int[Tensor, "columns images"]  # largest first
    values: Float[Tensor, "columns images"]  # in that order
    active: Int[Tensor, " columns"]  # leading images that are active

    @classmethod
    def of(cls, raw: Float[Tensor, "images columns"], alpha: float) -> RankedColumns:
        """Rank float32 columns; a share `alpha` of the images, and ties, are active."""
        values, order = torch.sort(raw.T.contiguous(), dim=1, descending=True, stable=True)
        cut = values[:, active_count(alpha, len(raw)) - 1]
        return cls(raw, order.int(), values, (values >= cut[:, None]).sum(1))

    @cached_property
    def mean(self) -> Float[Tensor, " columns"]:
        return self.values.mean(1, dtype=torch.float64)

    @cached_property
    def variance(self) -> Float[Tensor, " columns"]:
        """Population variance; exactly 0 for a constant."""
        squares = (self.values - self.mean[:, None]).square_().mean(1)
        is_constant = self.values[:, 0] == self.values[:, -1]
        return torch.where(is_constant, 0.0, squares)

    @cached_property
    def norm(self) -> Float[Tensor, " columns"]:
        return self.values.double().square_().sum(1).sqrt_()

    @cached_property
    def rank_variance(self) -> Float[Tensor, " columns"]:
        """Variance of the ranks: (n^2 - 1) / 12, less that of ranks within ties."""
        images = self.values.shape[1]
        within = []
        for row in self.values[:, 1:] != self.values[:, :-1]:
            ends = torch.cat([torch.tensor([0]), row.nonzero()[:, 0] + 1, torch.tensor([images])])
            ties = ends.diff().double()
            within.append((ties**3 - ties).sum())
        return (images**2 - 1 - torch.stack(within) / images) / 12

    @cached_property
    def ranks(self) -> Float[Tensor, "images columns"]:
        """Ranks from the smallest value up, less their mean; ties share the mean rank."""
        return _ranks(self.raw, axis=0) - (len(self.raw) + 1) / 2

    @cached_property
    def mask(self) -> Bool[Tensor, "images columns"]:
        """Active images."""
        return self.raw >= self.values.gather(1, self.active[:, None] - 1)[:, 0]


@dataclass(frozen=True)
class ConceptColumns:
    """The concepts of all images: where each is present, and its values unless 0 and 1."""

    present: Bool[Tensor, "images concepts"]
    soft: RankedColumns | None

    @classmethod
    def of(cls, concepts: Shaped[Tensor, "images concepts"]) -> ConceptColumns:
        if concepts.dtype == torch.bool:
            return cls(concepts, None)
        present = concepts >= 0.5
        is_binary = bool((concepts == present).all())
        return cls(present, None if is_binary else RankedColumns.of(concepts.float(), 1.0))

    @cached_property
    def entries(self) -> Entries:
        return Entries.of(self.present)

    @cached_property
    def size(self) -> Float[Tensor, " concepts"]:
        return self.present.sum(0).double()

    @cached_property
    def mean(self) -> Float[Tensor, " concepts"]:
        return self.soft.mean if self.soft else self.size / len(self.present)

    @cached_property
    def variance(self) -> Float[Tensor, " concepts"]:
        return self.soft.variance if self.soft else self.mean * (1 - self.mean)

    @cached_property
    def norm(self) -> Float[Tensor, " concepts"]:
        return self.soft.norm if self.soft else self.size.sqrt()

    @cached_property
    def rank_variance(self) -> Float[Tensor, " concepts"]:
        return self.soft.rank_variance if self.soft else len(self.present) ** 2 / 4 * self.variance

    @cached_property
    def values(self) -> Float[Tensor, "images concepts"]:
        return self.soft.raw.double() if self.soft else self.present.double()

    @cached_property
    def logarithms(self) -> Float[Tensor, "images concepts"]:
        return self.values.clamp_min(_LEAST).log_()


class Statistics:
    """Sums of a block of units and all concepts, each computed once, when it is needed.

    With binary concepts every number follows from one pass, `RankedSums`; else products of matrices
    and a second pass, over each concept's ranking, are needed.
    """

    def __init__(
        self,
        units: RankedColumns,
        concepts: ConceptColumns,
        lam: float,
        positions: Int[Tensor, "units drawn"],
    ) -> None:
        self.a, self.c, self.lam, self.positions = units, concepts, lam, positions
        self.images = len(concepts.present)
        self.active = units.active[:, None].double()  # |A|
        self.present = concepts.size[None]  # |C|

    @cached_property
    def sums(self) -> RankedSums:
        return ranked_sums(self.a.order, self.a.values, self.a.active, self.c.entries)

    @property
    def both(self) -> Matrix:
        """Images that are active and have the concept."""
        return self.sums.active

    @property
    def neither(self) -> Matrix:
        return self.images - self.active - self.present + self.both

    @cached_property
    def of_concepts(self) -> RankedSums:
        """Sums of the ranked concepts over the units' active images, `[units, concepts]`."""
        soft = self.c.soft
        assert soft is not None
        sums = ranked_sums(soft.order, soft.values, soft.active, Entries.of(self.a.mask))
        return RankedSums(*(field.T for field in sums))

    @property
    def products(self) -> Matrix:
        """Sum of a * c."""
        return self.a.raw.T.double() @ self.c.values if self.c.soft else self.sums.values

    @cached_property
    def rank_covariance(self) -> Matrix:
        """Covariance of the ranks of a and c; ties share their mean rank."""
        if self.c.soft:
            return self.a.ranks.T @ self.c.soft.ranks / self.images
        # The mean ranks of present and absent images differ by half the number of images.
        return (self.sums.ranks - self.present * (self.images - 1) / 2) / 2

    @property
    def mean_logarithm(self) -> Matrix:
        """Mean of log(c) over active images."""
        if self.c.soft:
            return self.a.mask.T.double() @ self.c.logarithms / self.active
        return (1 - self.both / self.active) * math.log(_LEAST)

    @cached_property
    def drawn(self) -> tuple[Float[Tensor, "units drawn"], Float[Tensor, "units drawn concepts"]]:
        """Activations and concepts of top and random images."""
        images = self.a.order.gather(1, self.positions).long()
        matrix = self.c.soft.raw if self.c.soft else self.c.present
        return self.a.values.gather(1, self.positions).double(), matrix[images].double()

    @property
    def drawn_ranks(
        self,
    ) -> tuple[Float[Tensor, "units drawn"], Float[Tensor, "units drawn concepts"]]:
        a, c = self.drawn
        # Ranks of a binary column are a linear function of it.
        return _ranks(a, axis=1), _ranks(c, axis=1) if self.c.soft else c


def _ranks(values: Float[Tensor, "..."], axis: int) -> Float[Tensor, "..."]:
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(values.numpy(), axis=axis))


def active_count(alpha: float, images: int) -> int:
    """Return `ceil(alpha * images)`, the number of active images without ties; at least 1."""
    # Rounding first: 0.07 * 100 is above 7 in floating point.
    return min(images, max(1, math.ceil(round(alpha * images, 6))))


def sampled_positions(images: int, units: int, seed: int) -> Int[Tensor, "units drawn"]:
    """Draw positions in a unit's ranking: up to 25 of the top 0.2 %, and up to 25 of the rest."""
    generator = np.random.default_rng(seed)
    top = min(images, max(DRAWN, math.ceil(TOP_SHARE * images)))
    rest = min(DRAWN, images - top)

    def draw() -> Tensor:
        chosen = [generator.choice(top, min(DRAWN, top), replace=False)]
        if rest:
            chosen.append(top + generator.choice(images - top, rest, replace=False))
        return torch.from_numpy(np.concatenate(chosen))

    return torch.stack([draw() for _ in range(units)])
