"""Captions of units from the features of their exemplars."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from clipdissect.method.milan.beam import Beams, search
from clipdissect.method.milan.checkpoint import Checkpoint
from clipdissect.method.milan.decoder import Evidence, State

RERANK, MI, BEAM = STRATEGIES = ("rerank", "mi", "beam")
UNITS_AT_ONCE, UNITS_AT_ONCE_ON_DEVICE = 16, 128  # times `beam` texts of 4,000 numbers each
Captions = tuple[list[str], list[float]]  # texts and scores, best first


@dataclass(frozen=True)
class Decoding:
    """How texts are searched and scored; see `Milan`."""

    strategy: str = RERANK
    lam: float = 0.2
    beam: int = 50
    length: int = 15
    temperature: float = 1.0


@torch.no_grad()
def captions(
    model: Checkpoint,
    features: Float[Tensor, "units exemplars features"],
    present: Bool[Tensor, "units exemplars"],
    decoding: Decoding,
) -> list[Captions]:
    """Return each unit's captions; none for units without exemplars."""
    found: list[Captions] = [([], [])] * len(features)
    device = model.encoder.mean.device
    at_once = UNITS_AT_ONCE if device.type == "cpu" else UNITS_AT_ONCE_ON_DEVICE
    described = present.any(1).nonzero()[:, 0]
    for units in torch.split(described, at_once) if len(described) else ():
        parts = features[units].to(device), present[units].to(device)
        beams = ranked(model, model.decoder.evidence(*parts), decoding)
        for unit, tokens, scores in zip(units.tolist(), beams.tokens, beams.scores, strict=True):
            found[unit] = _texts(model, tokens, scores)
    return found


def ranked(model: Checkpoint, evidence: Evidence, decoding: Decoding) -> Beams:
    """Search texts for a batch of units, and order them by the strategy's score."""
    vocabulary, units = model.vocabulary, len(evidence.features)
    state = model.decoder.initial(evidence)
    if decoding.strategy == MI:
        assert model.lm is not None  # as `Milan` sees to
        state = (*state, *model.lm.initial(units))
    step = partial(_step, model, evidence, decoding)
    sizes = vocabulary.start, vocabulary.stop, decoding.beam, decoding.length
    beams = search(step, state, *sizes)
    scores = beams.scores
    if decoding.strategy == RERANK:
        assert model.lm is not None
        texts = beams.tokens.flatten(0, 1)
        prior = model.lm.log_prob(texts, vocabulary.start, vocabulary.stop)
        scores = scores - decoding.lam * prior.view(scores.shape)
    order = scores.argsort(stable=True, dim=1, descending=True)
    places = order[..., None].expand_as(beams.tokens)
    return Beams(beams.tokens.gather(1, places), scores.gather(1, order))


def _step(
    model: Checkpoint,
    evidence: Evidence,
    decoding: Decoding,
    tokens: Int[Tensor, "units beams"],
    state: State,
) -> tuple[Float[Tensor, "units beams vocabulary"], State]:
    """Return the next token's scores: `log p`, for `mi` less `lam` times the language model's."""
    scores, new = model.decoder.step(evidence, tokens, state[:2])
    if decoding.temperature != 1:
        scores = F.log_softmax(scores / decoding.temperature, -1)
    if decoding.strategy == MI and model.lm is not None:
        prior, of_lm = model.lm.step(tokens, state[2:])
        scores, new = scores - decoding.lam * prior, (*new, *of_lm)
    return scores, new


def _texts(
    model: Checkpoint, tokens: Int[Tensor, "beams length"], scores: Float[Tensor, " beams"]
) -> Captions:
    """Return the different texts, without the empty one, and their best scores."""
    best: dict[str, float] = {}
    for numbers, score in zip(tokens.tolist(), scores.tolist(), strict=True):
        text = model.vocabulary.text(numbers)
        if text and score > -torch.inf:
            best.setdefault(text, score)
    return list(best), list(best.values())
