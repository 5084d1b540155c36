"""Cosine similarity of activations and concept activations, plain and cubed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.similarity import checks
from clipdissect.similarity.base import Activations, Plan, Similarity, all_activations
from clipdissect.similarity.blocks import concept_blocks
from clipdissect.similarity.moments import column_means, inverse_root, subtract
from clipdissect.similarity.products import product
from clipdissect.similarity.sources import ROWS_AT_ONCE, Source

_ACTIVATIONS_AT_ONCE = 250_000


@dataclass(frozen=True)
class Cosine(Similarity):
    """Cosine of the angle between `q_k` and `P_m`, columns over all images.

    From embeddings it costs products of small matrices only. A zero column, or with `center` a
    constant one, has no direction: its scores are 0.

    Args:
        center: subtract the mean over images first, which makes it Pearson's correlation.

    Raises:
        DissectError: a parameter out of its range.

    Source: Sec. 3.2, "cos".
    """

    center: bool = False
    name: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        checks.flag("center", self.center)

    def _plan(self, source: Source, q: Activations) -> Plan:
        full = all_activations(self.name, q)
        moments = source.moments(full, self.center)
        units = full.shape[1]
        blocks = concept_blocks(source.concepts, 6 * units, self.memory_gb, source.device)

        def scores(start: int, stop: int) -> Float[Tensor, "units block"]:
            block = moments.block(start, stop)
            inverse, inverse_q = inverse_root(block.squares), inverse_root(moments.squares)
            return block.dots.mul_(inverse).mul_(inverse_q[:, None]).float()

        return Plan(units, blocks, scores, _of_directions(full))


@dataclass(frozen=True)
class CosineCubed(Similarity):
    """Cosine of centred, then cubed, activations and concept activations.

    `c(x) = (x - mean(x))^3` elementwise, over images; `sim = c(q_k) . c(P_m)` over the product of
    their lengths, each taken as at least `min_norm`. A constant column has scores 0.

    Images are taken some at a time, of q and of P, and their products added up: beside the scores
    of a block of concepts, what is in flight doesn't grow with the images. Means come first, from
    the mean image embedding; cubes of activations are made anew for each block of concepts.

    Args:
        min_norm: smallest length divided by.

    Raises:
        DissectError: a parameter out of its range.

    Source: the published code's cubed cosine; in the paper's comparison of Sec. 4.
    """

    min_norm: float = 1e-3
    name: ClassVar[str] = "cosine_cubed"

    def __post_init__(self) -> None:
        """Check the parameters."""
        super().__post_init__()
        checks.number("min_norm", self.min_norm, above=0)

    def _plan(self, source: Source, q: Activations) -> Plan:
        full = all_activations(self.name, q)
        units, mean_q, mean_p = full.shape[1], column_means(full), source.means()
        scale = self._inverse_lengths(full, mean_q).pow_(1 / 3)
        # In flight: a part of P, its cubes transposed and a copy; the scores and one copy of them.
        floats = 3 * ROWS_AT_ONCE + 2 * units
        blocks = concept_blocks(source.concepts, floats, self.memory_gb, source.device)

        def scores(start: int, stop: int) -> Float[Tensor, "units block"]:
            dots = torch.zeros(units, stop - start, dtype=torch.float32, device=full.device)
            squares = torch.zeros(stop - start, dtype=torch.float64, device=full.device)
            for rows, part in source.chunks(start, stop):
                cubes = subtract(part, mean_p[start:stop]).pow_(3).T.contiguous()
                squares += cubes.norm(dim=1).double().square_()
                _add_products(dots, full[rows], mean_q, scale, cubes)
            return dots.div_(squares.sqrt_().clamp_min_(self.min_norm).float())

        return Plan(units, blocks, scores, _of_directions(full))

    def _inverse_lengths(
        self, q: Float[Tensor, "images units"], mean: Float[Tensor, " units"]
    ) -> Float[Tensor, " units"]:
        """One over the clipped lengths of centred, cubed activations, float64."""
        squares = torch.zeros_like(mean)
        for part in torch.split(q, max(1, _ACTIVATIONS_AT_ONCE // q.shape[1])):
            centred = part.double() - mean
            squares += centred.mul_(centred.square()).square_().sum(0)
        return squares.sqrt_().clamp_min_(self.min_norm).reciprocal_()


def _of_directions(q: Float[Tensor, "images units"]) -> Float[Tensor, " units"]:
    """Magnitudes as of `Plan`: of sums whose terms' sizes add up to 1 at most."""
    return torch.ones(q.shape[1], dtype=torch.float32, device=q.device)


def _add_products(
    dots: Float[Tensor, "units block"],
    q: Float[Tensor, "rows units"],
    mean: Float[Tensor, " units"],
    scale: Float[Tensor, " units"],
    columns: Float[Tensor, "block rows"],
) -> None:
    """Add the products of `((q - mean) * scale)^3` with the columns, some units at a time.

    The scale comes before the cube: cubes of large activations are beyond float32.
    """
    step = max(1, _ACTIVATIONS_AT_ONCE // len(q))
    for first in range(0, q.shape[1], step):
        some = slice(first, first + step)
        scaled = ((q[:, some].double() - mean[some]) * scale[some]).float()
        dots[some].add_(product(scaled.pow_(3).T.contiguous(), columns))
