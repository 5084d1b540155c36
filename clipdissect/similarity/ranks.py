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
    rivals: Bool[Tensor, " concepts"] | None = None,
) -> Float[Tensor, " units"]:
    """The rank of each unit's wanted concept: 1 for the best; equal scores share the middle rank.

    A concept that n others equal, all else behind, has rank `1 + n / 2`: the mean over all orders
    of the tied ones, so that neither the order of the concepts nor a unit that tells nothing apart
    makes a rank good. The scores are those of `Similarity.top`. They are computed twice, a block at
    a time (the wanted concept's, then how many are ahead of it), and never held whole.

    Args:
        similarity: from `similarity.build`.
        concept_activations: the embeddings whose products are P.
        q: activations `[images, units]`, or every unit's top images.
        wanted: number of the concept of each unit; below 0 for none.
        rivals: which concepts count as ahead or equal; all where None. Of texts listed more than
            once, only the first copy should.

    Returns:
        `[units]`, from 1, float64; NaN where none is wanted.

    Raises:
        DissectError: as `Similarity.top`; or another number of wanted concepts than units.
    """
    plan = similarity.streaming(concept_activations, q)
    if len(wanted) != plan.units:
        raise DissectError(f"{len(wanted)} concepts are wanted of {plan.units} units")
    device = concept_activations.text_embeds.device
    wanted = wanted.to(device)
    counted = None if rivals is None else rivals.to(device)
    with torch.no_grad():
        own = _own_scores(plan, wanted)
        # A plan scores each block once: what it keeps between passes is handed out then.
        again = similarity.streaming(concept_activations, q)
        halves = torch.full_like(wanted, 2)  # ranks in halves, so that sums are whole numbers
        for start, stop in again.blocks:
            part = None if counted is None else counted[start:stop]
            halves += _ahead(again.scores(start, stop), own, wanted - start, part)
    # In numpy's precision, on the CPU: some devices have no float64.
    return (halves.cpu().double() / 2).masked_fill(wanted.cpu() < 0, float("nan"))


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
    rivals: Bool[Tensor, " block"] | None,
) -> Int[Tensor, " units"]:
    """Twice the number of a block's rivals ahead of the wanted concept, and of those equal once.

    The wanted one, whose place counts from the block's start, is no rival of its own.
    """
    other = torch.arange(scores.shape[1], device=scores.device) != place[:, None]
    if rivals is not None:
        other = other & rivals
    better, equal = scores > own[:, None], scores == own[:, None]
    return 2 * (better & other).sum(1) + (equal & other).sum(1)
