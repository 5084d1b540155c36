"""Beam search over tokens, for many units at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.method.milan.decoder import State

Step = Callable[[Tensor, State], tuple[Tensor, State]]  # tokens `[units, beams]` and a state


@dataclass(frozen=True)
class Beams:
    """The texts of a search, best first."""

    tokens: Int[Tensor, "units beams length"]  # after the first stop token, stop tokens
    scores: Float[Tensor, "units beams"]  # sums of log-probabilities


def search(step: Step, state: State, start: int, stop: int, beam: int, length: int) -> Beams:
    """Return the `beam` best texts of `length` tokens per unit that the search finds.

    Each step takes the `beam` best tokens after each text, then the best `beam` of these texts by
    the plain sum of log-probabilities. A finished text repeats its stop token at no cost.

    Args:
        step: log-probabilities of the next token, and the next state; `log p` need not sum to 1.
        state: the initial state of one beam per unit.
    """
    units, device = len(state[0]), state[0].device
    last = torch.full((units, 1), start, device=device)
    scores = torch.zeros(units, 1, device=device, dtype=torch.float32)
    tokens = last.new_zeros(units, 1, 0)
    for position in range(length):
        if position and bool((last == stop).all()):
            break
        log_probs, state = step(last, state)
        candidates = _with_finished(log_probs, last, stop)
        best = candidates.topk(min(beam, candidates.shape[2]), 2)
        sums = (scores[..., None] + best.values).flatten(1)
        scores, places = sums.topk(min(beam, sums.shape[1]), 1)
        parents = places // best.values.shape[2]
        last = best.indices.flatten(1).gather(1, places)
        tokens = torch.cat([_of(tokens, parents), last[..., None]], 2)
        state = tuple(_of(part, parents) for part in state)
    rest = last[..., None].expand(-1, -1, length - tokens.shape[2])
    return Beams(torch.cat([tokens, rest], 2), scores)


def _with_finished(
    log_probs: Float[Tensor, "units beams vocabulary"], last: Int[Tensor, "units beams"], stop: int
) -> Float[Tensor, "units beams vocabulary"]:
    """Return log-probabilities such that a finished text only repeats its stop token."""
    repeat = torch.full_like(log_probs[0, 0], -torch.inf)
    repeat[stop] = 0.0
    return torch.where((last == stop)[..., None], repeat, log_probs)


def _of(values: Tensor, parents: Int[Tensor, "units beams"]) -> Tensor:
    """Return the values of each new beam's parent."""
    units = torch.arange(len(values), device=values.device)[:, None]
    return values[units, parents]
