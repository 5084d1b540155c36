"""The rank of a given concept of every unit among all concepts."""

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
    """Rank each unit's wanted concept: 1 for the best; equal scores share the mean rank.

    A concept with n equals, all else behind, has rank `1 + n / 2`, so that neither the order of the
    concepts nor a unit whose scores are all equal makes a rank good. The scores are those of
    `Similarity.top`. They are computed twice, block by block (for the wanted concept's score, then
    to count those ahead of it), and never held whole.

    Args:
        wanted: concept number per unit; below 0 for none.
        rivals: concepts that count as ahead or equal; None for all. Of repeated texts, only the
            first copy should.

    Returns:
        Ranks from 1, float64; NaN where none is wanted.
    """
    plan = similarity.streaming(concept_activations, q)
    if len(wanted) != plan.units:
        raise DissectError(f"{len(wanted)} concepts are wanted of {plan.units} units")
    device = concept_activations.text_embeds.device
    wanted = wanted.to(device)
    rivals = None if rivals is None else rivals.to(device)
    with torch.no_grad():
        wanted_scores = _wanted_scores(plan, wanted)
        # A plan scores each block once: blocks that it caches are released then.
        second_plan = similarity.streaming(concept_activations, q)
        halves = torch.full_like(wanted, 2)  # ranks in halves, so that sums are whole numbers
        for start, stop in second_plan.blocks:
            counted = None if rivals is None else rivals[start:stop]
            scores = second_plan.scores(start, stop)
            halves += _halves_ahead(scores, wanted_scores, wanted - start, counted)
    # In numpy's precision, on the CPU: some devices have no float64.
    return (halves.cpu().double() / 2).masked_fill(wanted.cpu() < 0, float("nan"))


def _wanted_scores(plan: Plan, wanted: Int[Tensor, " units"]) -> Float[Tensor, " units"]:
    """The score of each unit's wanted concept; 0 where there is none."""
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
    """Twice the number of a block's rivals ahead of the wanted concept, plus those equal to it."""
    # The wanted concept isn't its own rival; its number counts from the block's start.
    other = torch.arange(scores.shape[1], device=scores.device) != wanted[:, None]
    if rivals is not None:
        other = other & rivals
    better, equal = scores > wanted_scores[:, None], scores == wanted_scores[:, None]
    return 2 * (better & other).sum(1) + (equal & other).sum(1)
