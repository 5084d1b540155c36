"""Inner products of activations with columns of P, and squared lengths, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# A centred column shorter than this fraction of the column itself is constant up to rounding.
_CONSTANT = 1e-6
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class BlockMoments:
    """Moments of a block, float64; if centred, `squares` is exactly 0 for constant columns."""

    dots: Float[Tensor, "units block"]  # q_k . P_m
    squares: Float[Tensor, " block"]  # ||P_m||^2


@dataclass(frozen=True)
class Moments:
    """Moments of all units with any block of concepts, by `block(start, stop)`."""

    squares: Float[Tensor, " units"]  # ||q_k||^2; if centred, exactly 0 for a constant unit
    block: Callable[[int, int], BlockMoments]


def dense_moments(
    P: Float[Tensor, "images concepts"], q: Float[Tensor, "images units"], center: bool
) -> Moments:
    """Compute moments from a dense P, with P and q centred over images if `center`."""
    q_shift = _shift(q, center)

    def block(start: int, stop: int) -> BlockMoments:
        columns = P[:, start:stop]
        shift = _shift(columns, center)
        dots = torch.zeros(q.shape[1], stop - start, dtype=torch.float64, device=q.device)
        for q_rows, P_rows in _row_pairs(q, columns):
            dots.addmm_((q_rows.double() - q_shift).T, P_rows.double() - shift)
        return BlockMoments(dots, _squares(columns, shift, center))

    return Moments(_squares(q, q_shift, center), block)


def factor_moments(
    image_embeds: Float[Tensor, "images dims"],
    text_embeds: Float[Tensor, "concepts dims"],
    q: Float[Tensor, "images units"],
    center: bool,
) -> Moments:
    """Compute moments from embeddings, with P and q centred over images if `center`."""
    # P isn't needed: q.T @ P = (q.T @ I) @ T.T and ||P_m||^2 = T_m . (I.T @ I) T_m (DESIGN.md,
    # "Mathematics worth using", item 5). In float64, because distances and centred lengths are
    # small differences of these numbers.
    images, dims = image_embeds.shape
    mean = column_means(image_embeds)
    shift, q_shift = mean if center else torch.zeros_like(mean), _shift(q, center)
    gram = torch.zeros(dims, dims, dtype=torch.float64, device=q.device)  # I.T @ I
    weighted = torch.zeros(q.shape[1], dims, dtype=torch.float64, device=q.device)  # q.T @ I
    for embeds, q_rows in _row_pairs(image_embeds, q):
        rows = embeds.double() - shift
        gram.addmm_(rows.T, rows)
        weighted.addmm_((q_rows.double() - q_shift).T, rows)

    def block(start: int, stop: int) -> BlockMoments:
        texts = text_embeds[start:stop].double()
        # Rounding can leave the quadratic form slightly below 0.
        lengths = (texts @ gram).mul_(texts).sum(1).clamp_min_(0.0)
        if center:
            # ||P_m||^2 = ||P_m - mean||^2 + N * mean^2
            lengths = _without_constants(lengths, lengths + images * (texts @ mean).square())
        return BlockMoments(weighted @ texts.T, lengths)

    return Moments(_squares(q, q_shift, center), block)


def means(parts: Iterable[Float[Tensor, "_ columns"]]) -> Float[Tensor, " columns"]:
    """Compute float64 means over images of a matrix that comes in chunks of images."""
    count, total = 0, torch.zeros((), dtype=torch.float64)
    for part in parts:
        count, total = count + len(part), total.to(part.device) + part.sum(0, dtype=torch.float64)
    return total / count


def column_means(x: Float[Tensor, "images columns"]) -> Float[Tensor, " columns"]:
    """Compute float64 means over images, without a float64 copy of the matrix."""
    return means(torch.split(x, _ROWS_AT_ONCE))


def subtract(
    x: Float[Tensor, "rows columns"], mean: Float[Tensor, " columns"]
) -> Float[Tensor, "rows columns"]:
    """Compute `x - mean` in place in float32, for a float64 mean."""
    high = mean.float()
    # The second step subtracts the float32 rounding error of a large mean.
    return x.sub_(high).sub_((mean - high).float())


def inverse_root(squares: Float[Tensor, " columns"]) -> Float[Tensor, " columns"]:
    """Compute `1 / sqrt(x)`, and 0 for 0."""
    return squares.rsqrt().where(squares > 0, 0.0)


def _row_pairs(
    a: Float[Tensor, "images _a"], b: Float[Tensor, "images _b"]
) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(torch.split(a, _ROWS_AT_ONCE), torch.split(b, _ROWS_AT_ONCE), strict=True)


def _shift(x: Float[Tensor, "images columns"], center: bool) -> Float[Tensor, " columns"]:
    if center:
        return column_means(x)
    return torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)


def _squares(
    x: Float[Tensor, "images columns"], shift: Float[Tensor, " columns"], center: bool
) -> Float[Tensor, " columns"]:
    """Compute squared lengths of shifted columns; if centred, exactly 0 for constant ones."""
    squares, uncentred = torch.zeros_like(shift), torch.zeros_like(shift)
    for part in torch.split(x, _ROWS_AT_ONCE):
        wide = part.double()
        squares += (wide - shift).square_().sum(0)
        if center:
            uncentred += wide.square().sum(0)
    return _without_constants(squares, uncentred) if center else squares


def _without_constants(
    squares: Float[Tensor, " columns"], uncentred: Float[Tensor, " columns"]
) -> Float[Tensor, " columns"]:
    """Set squared centred lengths to 0 where they are rounding errors only."""
    return torch.where(squares > _CONSTANT**2 * uncentred, squares, 0.0)
