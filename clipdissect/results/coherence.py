"""Numbers about units that need no label: how alike the images are that activate them."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from clipdissect.capture.activations import Activations, dead_units
from clipdissect.results.two_means import two_means
from clipdissect.similarity.inputs import TopActivations
from clipdissect.similarity.sources import product

IMAGES = 20  # top images per unit, whatever a run's similarity function and tables use
NAMES = ("clarity", "polysemanticity", "redundancy", "monosemanticity")
_WHOLE = 10  # images of a unit without two clusters; SemanticLens's number
_NUMBERS_AT_ONCE = 4_000_000  # 16 MB of float32
# Of fewer pairs, in shares of the squared sum of weights, rounding would take the fifth digit.
_ENOUGH_PAIRS = 0.1


def unit_numbers(
    layer: str,
    activations: Activations,
    top: TopActivations,
    embeds: Float[Tensor, "images dims"],
    latents: bool = False,
) -> pd.DataFrame:
    """Return a layer's units with `NAMES`, NaN for dead units.

    Args:
        top: of the activations; `IMAGES` are used, or all if there are fewer.
        embeds: of all images, on the activations' device.
        latents: whether only images on which a unit fires are its top images.
    """
    images = top.indices[:IMAGES]
    counted = counted_images(activations, top, latents)[:IMAGES]
    columns = {
        "clarity": clarity(embeds, images, counted),
        "polysemanticity": polysemanticity(embeds, images, counted),
        "redundancy": redundancy(embeds, images, counted),
        "monosemanticity": monosemanticity(embeds, activations)
        if isinstance(activations, Tensor)
        else torch.full((images.shape[1],), torch.nan),  # which takes all activations
    }
    numbers = {name: column.cpu().numpy() for name, column in columns.items()}
    table: pd.DataFrame = pd.DataFrame({"layer": layer, "unit": range(images.shape[1]), **numbers})
    return table


def counted_images(
    activations: Activations, top: TopActivations, latents: bool
) -> Bool[Tensor, "k units"]:
    """Return which top images count: none of dead units; of latents, those on which they fire."""
    if latents:
        return top.values > 0
    return (~dead_units(activations)).expand(top.values.shape)


def clarity(
    embeds: Float[Tensor, "images dims"],
    top: Int[Tensor, "k units"],
    counted: Bool[Tensor, "k units"] | None = None,
) -> Float[Tensor, " units"]:
    """Return the mean cosine of pairs of a unit's top images; NaN for fewer than 2 images.

    With embeddings of unit length and mean `m` of n images, it is
    `(|m|^2 - 1/n) * n / (n - 1)`. Random images don't have 0, but the mean cosine of all pairs.

    Args:
        embeds: of images, best by a network that neither has nor labels the units; any length.
        top: image numbers.
        counted: which of `top` count, such as those on which a latent fires; None: all.

    Source: Dreyer et al., Mechanistic understanding and validation of large AI models with
    SemanticLens, 2025 (clarity).
    """
    sums, n = sums_of(embeds, top, counted)
    result = (sums.double().square().sum(1) - n) / (n * (n - 1))
    return torch.where(n < 2, torch.nan, result)


def redundancy(
    embeds: Float[Tensor, "images dims"],
    top: Int[Tensor, "k units"],
    counted: Bool[Tensor, "k units"] | None = None,
) -> Float[Tensor, " units"]:
    """Return the largest cosine of the means of a unit's and of another unit's top images.

    NaN for units without images, and for a layer's only unit. Args and source: see `clarity`.
    """
    sums, n = sums_of(embeds, top, counted)
    result = torch.full_like(n, torch.nan)
    live = n > 0
    means = F.normalize(sums[live], dim=1)
    if len(means) < 2:
        return result
    best = []
    for units in _blocks(len(means), len(means)):
        cosines = product(means[units], means)
        own = torch.arange(len(means), device=means.device)[units]
        cosines[torch.arange(len(own), device=means.device), own] = -torch.inf
        best.append(cosines.amax(1))
    result[live] = torch.cat(best).to(result.dtype)
    return result


def polysemanticity(
    embeds: Float[Tensor, "images dims"],
    top: Int[Tensor, "k units"],
    counted: Bool[Tensor, "k units"] | None = None,
) -> Float[Tensor, " units"]:
    """Return 1 minus the cosine of the centres of a unit's two clusters of top images.

    If a cluster has fewer than 2 images, 1 minus the mean cosine of the best ten images and the
    mean of all. NaN for fewer than 2 images. Args and source: see `clarity`. Unlike there, every
    pair of images is a start of k-means, instead of 10 random ones.
    """
    if len(top) < 2:
        return torch.full((top.shape[1],), torch.nan, device=top.device)
    counted = torch.ones_like(top, dtype=torch.bool) if counted is None else counted
    unit = F.normalize(embeds.float(), dim=1)
    parts = []
    for units in _blocks(top.shape[1], len(top) * embeds.shape[1]):
        points = unit[top[:, units].T]
        parts.append(_polysemanticity(points @ points.mT, counted[:, units].T))
    return torch.cat(parts)


def _polysemanticity(
    products: Float[Tensor, "units k k"], counted: Bool[Tensor, "units k"]
) -> Float[Tensor, " units"]:
    first, _ = two_means(products, counted)
    products = products.double()
    one, other, all_of = (x.double() for x in (first, counted & ~first, counted))
    ten = (counted & (counted.cumsum(1) <= _WHOLE)).double()
    # The mean of cosines to the ten is the dot product with their sum: images have unit length.
    to_mean = _dot(products, ten, all_of) / _dot(products, all_of, all_of).sqrt() / ten.sum(1)
    lengths = (_dot(products, one, one) * _dot(products, other, other)).sqrt()
    has_two = torch.minimum(one.sum(1), other.sum(1)) >= 2
    result = 1 - torch.where(has_two, _dot(products, one, other) / lengths, to_mean)
    return torch.where(all_of.sum(1) < 2, torch.nan, result)


def _dot(
    products: Float[Tensor, "units k k"], a: Float[Tensor, "units k"], b: Float[Tensor, "units k"]
) -> Float[Tensor, " units"]:
    """Return the dot products of two sums of a unit's images."""
    return (a[:, None] @ products @ b[:, :, None])[:, 0, 0]


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
    columns = F.normalize(embeds.float(), dim=1).T.contiguous()
    parts = [
        _monosemanticity(embeds, columns, activations[:, units])
        for units in _blocks(activations.shape[1], len(activations))
    ]
    return torch.cat(parts)


def _monosemanticity(
    embeds: Float[Tensor, "images dims"],
    columns: Float[Tensor, "dims images"],
    activations: Float[Tensor, "images units"],
) -> Float[Tensor, " units"]:
    """Compute in float32, and again in float64 where one image outweighs the others."""
    result, pairs = _weighted_cosine(columns, activations)
    rough = (pairs < _ENOUGH_PAIRS).nonzero()[:, 0]
    if len(rough):
        exact = F.normalize(embeds.double(), dim=1).T
        result[rough], _ = _weighted_cosine(exact, activations[:, rough].double())
    return result


def _weighted_cosine(
    columns: Float[Tensor, "dims images"], activations: Float[Tensor, "images units"]
) -> tuple[Float[Tensor, " units"], Float[Tensor, " units"]]:
    """Return the weighted mean, and the weight of all pairs as a share of the squared sum."""
    weights = activations.T.clone(memory_format=torch.contiguous_format)
    low, high = weights.aminmax(dim=1, keepdim=True)
    weights.sub_(low).div_(high - low)
    sums = weights.sum(1, dtype=torch.float64)
    squares = weights.square().sum(1, dtype=torch.float64)
    pairs = sums.square() - squares
    is_float32 = weights.dtype == torch.float32
    together = product(weights, columns) if is_float32 else weights @ columns.T
    result = (together.double().square().sum(1) - squares) / pairs
    # Of one image, the weights of pairs are 0 but for rounding.
    return torch.where((weights > 0).sum(1) < 2, torch.nan, result), pairs / sums.square()


def sums_of(
    embeds: Float[Tensor, "images dims"],
    top: Int[Tensor, "k units"],
    counted: Bool[Tensor, "k units"] | None,
) -> tuple[Float[Tensor, "units dims"], Float[Tensor, " units"]]:
    """Return the sums of each unit's images, at unit length, and their numbers."""
    counted = torch.ones_like(top, dtype=torch.bool) if counted is None else counted
    unit, weights = F.normalize(embeds.float(), dim=1), counted.T.float().contiguous()
    sums = F.embedding_bag(top.T.contiguous(), unit, mode="sum", per_sample_weights=weights)
    return sums, weights.sum(1, dtype=torch.float64)


def _blocks(units: int, numbers: int) -> Iterator[slice]:
    """Yield slices of units of which each takes this many numbers."""
    step = max(1, _NUMBERS_AT_ONCE // max(1, numbers))
    return (slice(start, start + step) for start in range(0, units, step))
