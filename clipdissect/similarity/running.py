"""The best concepts seen so far of every unit, updated block by block."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.similarity import kernels
from clipdissect.similarity.inputs import Best


class RunningBest:
    """Keeps each unit's `n` best concepts and the runner-up while blocks of scores pass.

    Blocks must come in the order of their concepts: an equal score later on doesn't displace one
    seen before, which is how ties come out in concept order.
    """

    def __init__(self, units: int, n: int, concepts: int, device: torch.device) -> None:
        self._n = min(n, concepts)
        kept = min(max(n, 2), concepts)
        self._scores = torch.full((units, kept), -torch.inf, dtype=torch.float32, device=device)
        # A number beyond every concept loses all ties.
        self._concepts = torch.full((units, kept), concepts, dtype=torch.int64, device=device)

    def update(self, scores: Float[Tensor, "units block"], start: int) -> None:
        """Take in the scores of the concepts from number `start` on."""
        kernels.update_best(self._scores, self._concepts, scores, start)

    def best(self, magnitudes: Float[Tensor, " units"] | None = None) -> Best:
        """The best concepts of every unit and the margin of the first to the second.

        Args:
            magnitudes: as of `Plan`; None takes the scores' own.
        """
        largest = self._scores[:, 0].abs() if magnitudes is None else magnitudes
        resolution = largest * torch.finfo(torch.float32).eps
        if self._scores.shape[1] > 1:
            margin = self._scores[:, 0] - self._scores[:, 1]
        else:
            margin = torch.full_like(self._scores[:, 0], torch.nan)
        n = self._n
        return Best(self._concepts[:, :n].clone(), self._scores[:, :n].clone(), margin, resolution)
