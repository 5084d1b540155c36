"""Negative l_p distance of activations and concept activations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.similarity import checks
from clipdissect.similarity.base import Activations, Plan, Similarity, all_activations
from clipdissect.similarity.moments import Moments, column_means, inverse_root, subtract
from clipdissect.similarity.sources import Source, concept_blocks, rows_at_once


@dataclass(frozen=True)
class Lp(Similarity):
    """Negative distance `-||P_m - q_k||_p` over all images (Sec. 3.2, "l_p").

    Without `standardize`, which is ours, it mostly measures the size of q: cosines lie in a
    narrow band near 0.2. p=2 needs small matrix products only; any other p reads every image.

    Args:
        p: order of the norm.
        standardize: give each column of q and P mean 0 and population standard deviation 1 over
            images; a constant column becomes zeros. False for the plain distance.
    """

    p: float = 2.0
    standardize: bool = True
    name: ClassVar[str] = "lp"

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number("p", self.p, least=1)
        checks.flag("standardize", self.standardize)

    def _plan(self, source: Source, q: Activations) -> Plan:
        full = all_activations(self.name, q)
        return self._euclidean(source, full) if self.p == 2 else self._general(source, full)

    def _euclidean(self, source: Source, q: Float[Tensor, "images units"]) -> Plan:
        moments = source.moments(q, self.standardize)
        units = q.shape[1]
        blocks = concept_blocks(source.concepts, 8 * units, self.memory_gb, source.device)

        def scores(start: int, stop: int) -> Float[Tensor, "units block"]:
            squared = self._squared(moments, source.images, start, stop)
            # Rounding can leave a squared distance slightly below 0.
            return squared.clamp_min_(0.0).sqrt_().neg_().float()

        return Plan(units, blocks, scores)

    def _squared(
        self, moments: Moments, images: int, start: int, stop: int
    ) -> Float[Tensor, "units block"]:
        block = moments.block(start, stop)
        square_p, square_q, dots = block.squares, moments.squares[:, None], block.dots
        if self.standardize:
            dots.mul_(images).div_(torch.where(square_p > 0, square_p, 1.0).sqrt())
            dots.div_(torch.where(square_q > 0, square_q, 1.0).sqrt())
            # A standardised column has squared length N; a constant one is all zeros.
            square_p, square_q = images * (square_p > 0).double(), images * (square_q > 0).double()
            dots.mul_((square_p > 0) & (square_q > 0))
        # |P - q|^2 = |P|^2 - 2 P.q + |q|^2
        return dots.mul_(-2.0).add_(square_p).add_(square_q)

    def _general(self, source: Source, q: Float[Tensor, "images units"]) -> Plan:
        units, scaled = q.shape[1], self._scaled(source, q)
        # In use: a chunk of P, transposed too; the distances so far, and those of a chunk.
        floats = 2 * rows_at_once(source.device) + 4 * units
        blocks = concept_blocks(source.concepts, floats, self.memory_gb, source.device)

        def scores(start: int, stop: int) -> Float[Tensor, "units block"]:
            total = torch.zeros(units, stop - start, dtype=torch.float32, device=q.device)
            for q_rows, P_rows in scaled(start, stop):
                rows, columns = q_rows.T.contiguous(), P_rows.T.contiguous()
                part = torch.cdist(rows, columns, p=float(self.p))
                # The norm of the norms of parts is the norm of the whole.
                total = torch.stack([total, part]).norm(p=float(self.p), dim=0)
            return total.neg_()

        return Plan(units, blocks, scores)

    def _scaled(
        self, source: Source, q: Float[Tensor, "images units"]
    ) -> Callable[[int, int], Iterator[tuple[Tensor, Tensor]]]:
        """Return an iterator over chunks of q `[rows, units]` and P `[rows, block]`, scaled."""
        if not self.standardize:
            return lambda start, stop: (
                (q[rows].float(), chunk) for rows, chunk in source.chunks(start, stop)
            )
        mean_q, mean_p, moments = column_means(q), source.means(), source.moments(q, True)
        inverse_q = inverse_root(moments.squares / source.images)

        def scaled(start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
            inverse_p = inverse_root(moments.block(start, stop).squares / source.images).float()
            for rows, chunk in source.chunks(start, stop):
                q_rows = ((q[rows].double() - mean_q) * inverse_q).float()
                yield q_rows, subtract(chunk, mean_p[start:stop]).mul_(inverse_p)

        return scaled
