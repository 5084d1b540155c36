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

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from clipdissect.similarity import Similarity, kernels
from clipdissect.similarity.base import Activations
from clipdissect.similarity.inputs import ConceptActivations
from clipdissect.similarity.ranking import as_top
from clipdissect.similarity.soft_wpmi import SoftWpmi, membership
from clipdissect.similarity.softmax import Exponentials, safe_group, union
from clipdissect.similarity.sources import Factors, concept_blocks
from clipdissect.similarity.wpmi import Wpmi

# Beyond it the constant term of a factor is nothing beside the rest; exp(80) is a normal float32.
_LARGEST_EXPONENT = 80.0

Scorer = Callable[[Float[Tensor, "texts dims"]], Float[Tensor, "units texts"]]
LogJoint = Callable[
    [Float[Tensor, "images texts"], Int[Tensor, "units k"]], Float[Tensor, "units texts"]
]


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
    log_joint = _log_joint(similarity, top.values)
    source = Factors(images, words).take(rows)
    blocks = concept_blocks(len(words), 3 * len(rows), similarity.memory_gb, images.device)
    with torch.no_grad():
        log_sums = Exponentials(source, blocks, similarity.a, 0.5, keep=False).log_normaliser
        chosen = images[rows]

    def block(texts: Float[Tensor, "texts dims"]) -> Float[Tensor, "units texts"]:
        exponents = similarity.a * (chosen @ texts.T) - log_sums.float()[:, None]
        return kernels.less_marginal(log_joint(exponents, index), similarity.lam)

    def scores(texts: Float[Tensor, "texts dims"]) -> Float[Tensor, "units texts"]:
        floats = 3 * len(rows) + 2 * len(index)
        parts = concept_blocks(len(texts), floats, similarity.memory_gb, images.device)
        with torch.no_grad():
            return torch.cat([block(texts[start:stop].float()) for start, stop in parts], dim=1)

    return scores


def _log_joint(similarity: SoftWpmi | Wpmi, values: Float[Tensor, "k units"]) -> LogJoint:
    """What makes the joint terms `L` of logarithms of probabilities; see the functions themselves.

    A phrase's "probability" has no bound, so a factor of it hasn't either.
    """
    if isinstance(similarity, Wpmi):
        if similarity.eps == 0:
            return lambda exponents, index: embedding_bag(index, exponents, mode="sum")
        weight = torch.ones(1, len(values), dtype=torch.float32, device=values.device)
        smallest = similarity.eps
        base = weight * similarity.eps
    else:
        weight = membership(similarity.membership, values, similarity.p_start, similarity.p_end)
        base = (1.0 - weight + similarity.eps).float()
        weight, smallest = weight.float(), 1.0 - similarity.p_start + similarity.eps

    def log_joint(
        exponents: Float[Tensor, "images texts"], index: Int[Tensor, "units k"]
    ) -> Float[Tensor, "units texts"]:
        most = min(float(exponents.max()), _LARGEST_EXPONENT)
        beyond = (exponents - _LARGEST_EXPONENT).relu_() if most == _LARGEST_EXPONENT else None
        largest = float(base.max()) + float(weight.max()) * math.exp(most)
        x = exponents.clamp_(max=_LARGEST_EXPONENT).exp_()
        ones = torch.ones(len(x), dtype=torch.float32, device=x.device)
        group = safe_group(smallest, largest)
        joint = kernels.log_product_sums(x, index, ones, base, weight, group)
        return joint if beyond is None else joint.add_(embedding_bag(index, beyond, mode="sum"))

    return log_joint
