"""Score texts outside the concept set on the scale of the concepts."""

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

# Above it the constant term of a factor is negligible; exp(80) is a normal float32.
_LARGEST_EXPONENT = 80.0

Scorer = Callable[[Float[Tensor, "texts dims"]], Float[Tensor, "units texts"]]
LogJoint = Callable[
    [Float[Tensor, "images texts"], Int[Tensor, "units k"]], Float[Tensor, "units texts"]
]


def scorer(similarity: Similarity, concepts: ConceptActivations, q: Activations) -> Scorer:
    """Return a function from text embeddings to scores on the concepts' scale.

    For WPMI and SoftWPMI, `s(t|x) = exp(a P_xt) / sum_m exp(a P_xm)` with the sum over concepts
    alone and the marginal over all live units, so concepts score as in a dissection and no
    score depends on other phrases. The released notebook normalises over a unit's phrases.
    """
    if isinstance(similarity, (SoftWpmi, Wpmi)):
        return _probability_scorer(similarity, concepts, q)
    return lambda texts: alone(similarity, concepts.image_embeds, texts, q)


def alone(
    similarity: Similarity,
    images: Float[Tensor, "images dims"],
    texts: Float[Tensor, "texts dims"],
    q: Activations,
) -> Float[Tensor, "units texts"]:
    """Return scores of texts that are the whole concept set themselves."""
    plan = similarity.streaming(ConceptActivations(images, texts), q)
    with torch.no_grad():
        return torch.cat([plan.scores(start, stop) for start, stop in plan.blocks], dim=1)


def _probability_scorer(
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
        top_embeds = images[rows]

    def block_scores(texts: Float[Tensor, "texts dims"]) -> Float[Tensor, "units texts"]:
        exponents = similarity.a * (top_embeds @ texts.T) - log_sums.float()[:, None]
        return kernels.less_marginal(log_joint(exponents, index), similarity.lam)

    def scores(texts: Float[Tensor, "texts dims"]) -> Float[Tensor, "units texts"]:
        floats = 3 * len(rows) + 2 * len(index)
        blocks = concept_blocks(len(texts), floats, similarity.memory_gb, images.device)
        with torch.no_grad():
            parts = [block_scores(texts[start:stop].float()) for start, stop in blocks]
            return torch.cat(parts, dim=1)

    return scores


def _log_joint(similarity: SoftWpmi | Wpmi, values: Float[Tensor, "k units"]) -> LogJoint:
    """Return a function from log probabilities to the joint terms of the similarity function.

    A phrase's "probability" is unbounded, because the phrase is not in the normalising sum.
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
        limit = min(float(exponents.max()), _LARGEST_EXPONENT)
        # exp would overflow above the limit: there, log(base + weight e^x) grows linearly with x.
        excess = (exponents - _LARGEST_EXPONENT).relu_() if limit == _LARGEST_EXPONENT else None
        largest = float(base.max()) + float(weight.max()) * math.exp(limit)
        x = exponents.clamp_(max=_LARGEST_EXPONENT).exp_()
        ones = torch.ones(len(x), dtype=torch.float32, device=x.device)
        group = safe_group(smallest, largest)
        joint = kernels.log_product_sums(x, index, ones, base, weight, group)
        return joint if excess is None else joint.add_(embedding_bag(index, excess, mode="sum"))

    return log_joint
