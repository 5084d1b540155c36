"""Rank of a given concept per unit among all concepts."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.similarity.base import Activations, Plan, Similarity
from clipdissect.similarity.inputs import ConceptActivations


def ranks(
    similarity: Similarity,
    concept_activations: ConceptActivations,
    q: Activations,
    wanted: Int[Tensor, " units"],
    rivals: Bool[Tensor, " concepts"] | None = None,
) -> Float[Tensor, " units"]:
    """Return the rank of the wanted concept per unit, from 1, float64; NaN where `wanted` < 0.

    Equal scores share the mean rank (`1 + n / 2` with n equals, all else behind), so that
    neither concept order nor a unit with all scores equal gives a good rank. `rivals` are the
    concepts counted; of repeated texts, include only the first copy.
    """
    plan = similarity.streaming(concept_activations, q)
    if len(wanted) != plan.units:
        raise DissectError(
            f"{len(wanted)} wanted concepts for {plan.units} units; pass one per unit"
        )
    device = concept_activations.text_embeds.device
    wanted = wanted.to(device)
    rivals = None if rivals is None else rivals.to(device)
    # Two passes over the blocks, for the wanted scores and then the counts: all scores at once may
    # not fit the memory.
    with torch.no_grad():
        wanted_scores = _wanted_scores(plan, wanted)
        # A plan scores each block once: blocks that it caches are released then.
        second_plan = similarity.streaming(concept_activations, q)
        halves = torch.full_like(wanted, 2)  # ranks in halves, so that sums are whole numbers
        for start, stop in second_plan.blocks:
            counted = None if rivals is None else rivals[start:stop]
            scores = second_plan.scores(start, stop)
            halves += _halves_ahead(scores, wanted_scores, wanted - start, counted)
    # Float64, on the CPU because some devices have none.
    return (halves.cpu().double() / 2).masked_fill(wanted.cpu() < 0, float("nan"))


def _wanted_scores(plan: Plan, wanted: Int[Tensor, " units"]) -> Float[Tensor, " units"]:
    scores = torch.zeros(len(wanted), dtype=torch.float32, device=wanted.device)
    for start, stop in plan.blocks:
        units = ((wanted >= start) & (wanted < stop)).nonzero()[:, 0]
        if len(units):
            scores[units] = plan.scores(start, stop)[units, wanted[units] - start]
    return scores


def _halves_ahead(
    scores: Float[Tensor, "units block"],
    wanted_scores: Float[Tensor, " units"],
    wanted: Int[Tensor, " units"],
    rivals: Bool[Tensor, " block"] | None,
) -> Int[Tensor, " units"]:
    """Return twice the number of rivals with a higher score, plus those with an equal one."""
    # The wanted concept isn't its own rival; its number counts from the block's start.
    other = torch.arange(scores.shape[1], device=scores.device) != wanted[:, None]
    if rivals is not None:
        other = other & rivals
    better, equal = scores > wanted_scores[:, None], scores == wanted_scores[:, None]
    return 2 * (better & other).sum(1) + (equal & other).sum(1)
