"""How alike the images that activate a unit are, in another network's embeddings."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def clarity(
    embeds: Float[Tensor, "images dims"],
    top: Int[Tensor, "k units"],
    counted: Bool[Tensor, "k units"] | None = None,
) -> Float[Tensor, " units"]:
    """Return the mean cosine of pairs of a unit's top images; NaN for fewer than 2 images.

    With embeddings of unit length and mean `m` of n images, it is
    `(|m|^2 - 1/n) * n / (n - 1)`. Random images don't have 0, but the mean cosine of all pairs.

    Args:
        embeds: of images, by a network that neither has nor labels the units; any length.
        top: image numbers.
        counted: which of `top` count, such as those on which a latent fires; None: all.

    Source: Dreyer et al., Mechanistic understanding and validation of large AI models with
    SemanticLens, 2025 (clarity).
    """
    counted = torch.ones_like(top, dtype=torch.bool) if counted is None else counted
    weights = counted.T.to(torch.float64).contiguous()
    unit = F.normalize(embeds.double(), dim=1)
    sums = F.embedding_bag(top.T.contiguous(), unit, mode="sum", per_sample_weights=weights)
    n = weights.sum(1)
    result = (sums.square().sum(1) - n) / (n * (n - 1))
    return torch.where(n < 2, torch.nan, result)


def monosemanticity(
    embeds: Float[Tensor, "images dims"], activations: Float[Tensor, "images units"]
) -> Float[Tensor, " units"]:
    """Return the mean cosine of pairs of images, weighted by the product of their activations.

    Activations are scaled to 0..1 per unit. NaN for units that don't vary or that are above their
    minimum on a single image.

    Args:
        embeds: see `clarity`.

    Source: Pach et al., Sparse autoencoders learn monosemantic features in vision-language models,
    2025 (MonoSemanticity), here without a loop over pairs: `sum over i != j of a_i a_j cos_ij =
    |sum a_i e_i|^2 - sum a_i^2`.
    """
    unit, a = F.normalize(embeds.double(), dim=1), activations.double()
    low, high = a.amin(0), a.amax(0)
    a = (a - low) / (high - low)
    squares = a.square().sum(0)
    pairs = a.sum(0).square() - squares
    result = ((a.T @ unit).square().sum(1) - squares) / pairs
    # Of one image, the weights of pairs are 0 but for rounding.
    return torch.where((a > 0).sum(0) < 2, torch.nan, result)
