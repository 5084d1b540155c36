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
from clipdissect.similarity.moments import centre_rows
from clipdissect.similarity.products import product
from clipdissect.similarity.sources import Source

_ACTIVATIONS_AT_ONCE = 1_000_000


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

        return Plan(units, blocks, scores)


@dataclass(frozen=True)
class CosineCubed(Similarity):
    """Cosine of centred, then cubed, activations and concept activations.

    `c(x) = (x - mean(x))^3` elementwise, over images; `sim = c(q_k) . c(P_m)` over the product of
    their lengths, each taken as at least `min_norm`. A constant column has scores 0.

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
        cubes = self._cubes(full)
        units = full.shape[1]
        floats = 3 * source.images + 2 * units
        blocks = concept_blocks(source.concepts, floats, self.memory_gb, source.device)

        def scores(start: int, stop: int) -> Float[Tensor, "units block"]:
            columns = source.columns(start, stop)
            centre_rows(columns)
            columns.mul_(columns.square())
            clipped = columns.norm(dim=1).clamp_min_(self.min_norm)
            return product(cubes, columns).div_(clipped)

        return Plan(units, blocks, scores)

    def _cubes(self, q: Float[Tensor, "images units"]) -> Float[Tensor, "units images"]:
        """Centred, cubed activations over their clipped lengths, some units at a time."""
        out = torch.empty(q.shape[1], q.shape[0], device=q.device)
        step = max(1, _ACTIVATIONS_AT_ONCE // q.shape[0])
        for start in range(0, q.shape[1], step):
            # Float64: the cubes of large activations, squared, are beyond float32.
            wide = q[:, start : start + step].T.double()
            wide = (wide - wide.mean(dim=1, keepdim=True)).pow_(3)
            lengths = wide.norm(dim=1, keepdim=True).clamp_min_(self.min_norm)
            out[start : start + step] = wide.div_(lengths)
        return out


def inverse_root(squares: Float[Tensor, " columns"]) -> Float[Tensor, " columns"]:
    """`1 / sqrt(x)`, and 0 for 0."""
    return squares.rsqrt().where(squares > 0, 0.0)
