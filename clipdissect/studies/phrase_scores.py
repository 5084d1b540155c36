"""Scores of texts that aren't in the concept set, on the scale of those that are.

WPMI and SoftWPMI score a concept by its probability among all concepts, so a phrase's score depends
on what it is compared with. Here the set stays the layer's concepts, for every phrase of every
unit: `s(t|x) = exp(a P_xt) / sum_m exp(a P_xm)`, with the sum over the concepts alone, and the
marginal, as ever, the mean over all living units of the layer. So a concept's score is exactly
what its dissection gives, a phrase's is what it would get in one concept's place, and no score
changes with what else is tried. The released notebook instead takes each unit's phrases for the
whole set, which makes their scores comparable with each other alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.similarity import Similarity, kernels
from clipdissect.similarity.base import Activations
from clipdissect.similarity.blocks import concept_blocks
from clipdissect.similarity.inputs import ConceptActivations
from clipdissect.similarity.membership import membership
from clipdissect.similarity.ranking import as_top
from clipdissect.similarity.soft_wpmi import SoftWpmi
from clipdissect.similarity.softmax import Exponentials, safe_group, union
from clipdissect.similarity.sources import Factors
from clipdissect.similarity.wpmi import Wpmi

Scorer = Callable[[Float[Tensor, "texts dims"]], Float[Tensor, "units texts"]]


def scorer(similarity: Similarity, concepts: ConceptActivations, q: Activations) -> Scorer:
    """What scores texts as the concepts are scored.

    Args:
        similarity: the similarity function.
        concepts: image embeddings, and text embeddings of the concept set.
        q: activations of the living units, `[images, units]`, or their top images.

    Returns:
        Text embeddings `[texts, dims]` to scores `[units, texts]`.
    """
    if isinstance(similarity, (SoftWpmi, Wpmi)):
        return _of_probabilities(similarity, concepts, q)
    return lambda texts: alone(similarity, concepts.image_embeds, texts, q)


def alone(
    similarity: Similarity, images: Float[Tensor, "images dims"],
    texts: Float[Tensor, "texts dims"], q: Activations,
) -> Float[Tensor, "units texts"]:  # fmt: skip
    """Scores of texts with nothing but themselves for a concept set.

    Args:
        similarity: the similarity function.
        images: image embeddings.
        texts: text embeddings.
        q: activations of the living units.
    """
    plan = similarity.streaming(ConceptActivations(images, texts), q)
    with torch.no_grad():
        return torch.cat([plan.scores(start, stop) for start, stop in plan.blocks], dim=1)


def _of_probabilities(
    similarity: SoftWpmi | Wpmi, concepts: ConceptActivations, q: Activations
) -> Scorer:
    images, words = concepts.image_embeds.float(), concepts.text_embeds.float()
    top = as_top(q, similarity.top_k, len(images), "top_k")
    rows, index = union(top.indices, len(images))
    base, weight, group = _factors(similarity, top.values)
    source = Factors(images, words).take(rows)
    blocks = concept_blocks(len(words), 3 * len(rows), similarity.memory_gb, images.device)
    with torch.no_grad():
        log_sums = Exponentials(source, blocks, similarity.a, 0.5, keep=False).log_normaliser
        chosen, ones = images[rows], torch.ones(len(rows), device=images.device)

    def block(texts: Float[Tensor, "texts dims"]) -> Float[Tensor, "units texts"]:
        exponents = similarity.a * (chosen @ texts.T) - log_sums.float()[:, None]
        joint = kernels.log_product_sums(exponents.exp_(), index, ones, base, weight, group)
        return kernels.less_marginal(joint, similarity.lam)

    def scores(texts: Float[Tensor, "texts dims"]) -> Float[Tensor, "units texts"]:
        floats = 2 * len(rows) + 2 * len(index)
        parts = concept_blocks(len(texts), floats, similarity.memory_gb, images.device)
        with torch.no_grad():
            return torch.cat([block(texts[start:stop].float()) for start, stop in parts], dim=1)

    return scores


def _factors(
    similarity: SoftWpmi | Wpmi, values: Float[Tensor, "k units"]
) -> tuple[Tensor, Tensor, int]:
    """What is added to and multiplied with a probability, and how many factors may be multiplied
    before a logarithm is taken; see the functions themselves."""
    if isinstance(similarity, Wpmi):
        ones = torch.ones(1, len(values), device=values.device)
        return ones * similarity.eps, ones, safe_group(similarity.eps) if similarity.eps else 1
    weight = membership(similarity.membership, values, similarity.p_start, similarity.p_end)
    base = (1.0 - weight + similarity.eps).float()
    return base, weight.float(), safe_group(1.0 - similarity.p_start + similarity.eps)
