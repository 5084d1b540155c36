"""Cosine similarity of activations and concept activations, plain and cubed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.similarity import checks
from clipdissect.similarity.base import Activations, Plan, Similarity, all_activations
from clipdissect.similarity.moments import column_means, inverse_root, subtract
from clipdissect.similarity.sources import Source, concept_blocks, product, rows_at_once

_ACTIVATIONS_AT_ONCE = 250_000


@dataclass(frozen=True)
class Cosine(Similarity):
    """Cosine of the angle between `q_k` and `P_m` over all images (Sec. 3.2, "cos").

    A zero column, or with `center` a constant one, has no direction: its scores are 0.

    Args:
        center: subtract the mean over images first, which gives Pearson's correlation.
    """

    center: bool = False
    name: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
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

        return Plan(units, blocks, scores, _unit_magnitudes(full))


@dataclass(frozen=True)
class CosineCubed(Similarity):
    """Cosine of centred, then cubed, activations and concept activations.

    `sim = c(q_k) . c(P_m) / (|c(q_k)| |c(P_m)|)` with `c(x) = (x - mean(x))^3` over images.
    A constant column has scores 0. Source: the published code; compared in Sec. 4.

    Args:
        min_norm: smallest length to divide by.
    """

    min_norm: float = 1e-3
    name: ClassVar[str] = "cosine_cubed"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("min_norm", self.min_norm, above=0)

    def _plan(self, source: Source, q: Activations) -> Plan:
        full = all_activations(self.name, q)
        units, mean_q, mean_p = full.shape[1], column_means(full), source.means()
        # (scale * x)^3 = x^3 / |c(q)|
        scale = self._inverse_lengths(full, mean_q).pow_(1 / 3)
        # In use: a chunk of P, its cubes transposed and a copy; the scores and a copy of them. The
        # cubes of activations are recomputed per block, so memory doesn't grow with the images.
        floats = 3 * rows_at_once(source.device) + 2 * units
        blocks = concept_blocks(source.concepts, floats, self.memory_gb, source.device)

        def scores(start: int, stop: int) -> Float[Tensor, "units block"]:
            dots = torch.zeros(units, stop - start, dtype=torch.float32, device=full.device)
            squares = torch.zeros(stop - start, dtype=torch.float64, device=full.device)
            for rows, chunk in source.chunks(start, stop):
                cubes = subtract(chunk, mean_p[start:stop]).pow_(3).T.contiguous()
                squares += cubes.norm(dim=1).double().square_()
                _add_products(dots, full[rows], mean_q, scale, cubes)
            return dots.div_(squares.sqrt_().clamp_min_(self.min_norm).float())

        return Plan(units, blocks, scores, _unit_magnitudes(full))

    def _inverse_lengths(
        self, q: Float[Tensor, "images units"], mean: Float[Tensor, " units"]
    ) -> Float[Tensor, " units"]:
        squares = torch.zeros_like(mean)
        for part in torch.split(q, max(1, _ACTIVATIONS_AT_ONCE // q.shape[1])):
            centred = part.double() - mean
            squares += centred.mul_(centred.square()).square_().sum(0)
        return squares.sqrt_().clamp_min_(self.min_norm).reciprocal_()


def _unit_magnitudes(q: Float[Tensor, "images units"]) -> Float[Tensor, " units"]:
    """Return ones: the absolute terms of a cosine sum to at most 1."""
    return torch.ones(q.shape[1], dtype=torch.float32, device=q.device)


def _add_products(
    dots: Float[Tensor, "units block"],
    q: Float[Tensor, "rows units"],
    mean: Float[Tensor, " units"],
    scale: Float[Tensor, " units"],
    columns: Float[Tensor, "block rows"],
) -> None:
    """Add the products of `((q - mean) * scale)^3` with the columns, in groups of units."""
    step = max(1, _ACTIVATIONS_AT_ONCE // len(q))
    for first in range(0, q.shape[1], step):
        units = slice(first, first + step)
        # Scaled before cubing: cubes of large activations overflow float32.
        scaled = ((q[:, units].double() - mean[units]) * scale[units]).float()
        dots[units].add_(product(scaled.pow_(3).T.contiguous(), columns))
