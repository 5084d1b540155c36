"""Where a given concept of every unit stands among all concepts."""

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
) -> Int[Tensor, " units"]:
    """The rank of each unit's wanted concept: 1 for the best; equal scores in concept order.

    The scores are those of `Similarity.top`, so rank 1 is its best concept. They are computed
    twice, a block at a time (the wanted concept's, then how many are ahead of it), and never held
    whole.

    Args:
        similarity: from `similarity.build`.
        concept_activations: the embeddings whose products are P.
        q: activations `[images, units]`, or every unit's top images.
        wanted: number of the concept of each unit; below 0 for none.

    Returns:
        `[units]`, from 1; 0 where none is wanted.

    Raises:
        DissectError: as `Similarity.top`; or another number of wanted concepts than units.
    """
    plan = similarity.streaming(concept_activations, q)
    if len(wanted) != plan.units:
        raise DissectError(f"{len(wanted)} concepts are wanted of {plan.units} units")
    wanted = wanted.to(concept_activations.text_embeds.device)
    with torch.no_grad():
        own = _own_scores(plan, wanted)
        # A plan scores each block once: what it keeps between passes is handed out then.
        again = similarity.streaming(concept_activations, q)
        found = torch.ones_like(wanted)
        for start, stop in again.blocks:
            found += _ahead(again.scores(start, stop), own, wanted - start).sum(1)
    return found.where(wanted >= 0, 0)


def _own_scores(plan: Plan, wanted: Int[Tensor, " units"]) -> Float[Tensor, " units"]:
    """The score of each unit's wanted concept; 0 where there is none."""
    own = torch.zeros(len(wanted), dtype=torch.float32, device=wanted.device)
    for start, stop in plan.blocks:
        units = ((wanted >= start) & (wanted < stop)).nonzero()[:, 0]
        if len(units):
            own[units] = plan.scores(start, stop)[units, wanted[units] - start]
    return own


def _ahead(
    scores: Float[Tensor, "units block"],
    own: Float[Tensor, " units"],
    place: Int[Tensor, " units"],
) -> Bool[Tensor, "units block"]:
    """Which concepts of a block come before the wanted one, whose place counts from its start."""
    earlier = torch.arange(scores.shape[1], device=scores.device) < place[:, None]
    return (scores > own[:, None]) | ((scores == own[:, None]) & earlier)
