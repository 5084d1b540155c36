"""Inner products of activations with columns of P, and squared lengths, in float64.

From embeddings neither P nor its columns are needed: `q.T @ P = (q.T @ I) @ T.T`, and
`||P_m||^2 = T_m . (I.T @ I) T_m`. Float64 throughout, because distances and centred lengths are
small differences of these numbers.

Source: DESIGN.md, "Mathematics worth using", item 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# A centred column shorter than this part of the column itself is constant but for rounding.
_CONSTANT = 1e-6
_ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class BlockMoments:
    """Moments of a block of columns, float64.

    Args:
        dots: `q_k . P_m`, `[units, block]`.
        squares: `||P_m||^2`, `[block]`; exactly 0 for a column that is constant, if centred.
    """

    dots: Float[Tensor, "units block"]
    squares: Float[Tensor, " block"]


@dataclass(frozen=True)
class Moments:
    """Moments of all units with any block of concepts.

    Args:
        squares: `||q_k||^2`, `[units]`, float64; exactly 0 for a constant unit, if centred.
        block: `(start, stop) -> BlockMoments`.
    """

    squares: Float[Tensor, " units"]
    block: Callable[[int, int], BlockMoments]


def dense_moments(
    P: Float[Tensor, "images concepts"], q: Float[Tensor, "images units"], center: bool
) -> Moments:
    """Moments from a dense P, both centred over images first if asked."""
    wide, squares = _centred(q, center)

    def block(start: int, stop: int) -> BlockMoments:
        columns, lengths = _centred(P[:, start:stop], center)
        return BlockMoments(wide.T @ columns, lengths)

    return Moments(squares, block)


def factor_moments(
    image_embeds: Float[Tensor, "images dims"],
    text_embeds: Float[Tensor, "concepts dims"],
    q: Float[Tensor, "images units"],
    center: bool,
) -> Moments:
    """Moments from embeddings, both P and q centred over images first if asked."""
    images, dims = image_embeds.shape
    mean = _means(image_embeds)
    shift = mean if center else torch.zeros_like(mean)
    q_shift = _means(q) if center else 0.0
    gram = torch.zeros(dims, dims, dtype=torch.float64, device=q.device)
    weighted = torch.zeros(q.shape[1], dims, dtype=torch.float64, device=q.device)
    squares = torch.zeros(q.shape[1], dtype=torch.float64, device=q.device)
    whole = torch.zeros_like(squares)
    for start in range(0, images, _ROWS_AT_ONCE):
        rows = image_embeds[start : start + _ROWS_AT_ONCE].double() - shift
        raw = q[start : start + _ROWS_AT_ONCE].double()
        whole += raw.square().sum(0)
        raw = raw - q_shift  # not in place: float64 activations are the caller's
        squares += raw.square().sum(0)
        gram.addmm_(rows.T, rows)
        weighted.addmm_(raw.T, rows)
    if center:
        squares = _without_constants(squares, whole)

    def block(start: int, stop: int) -> BlockMoments:
        texts = text_embeds[start:stop].double()
        lengths = (texts @ gram).mul_(texts).sum(1).clamp_min_(0.0)
        if center:
            lengths = _without_constants(lengths, lengths + images * (texts @ mean).square())
        return BlockMoments(weighted @ texts.T, lengths)

    return Moments(squares, block)


def _means(x: Float[Tensor, "images columns"]) -> Float[Tensor, " columns"]:
    """Means over images in float64, without a float64 copy of the whole."""
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for start in range(0, len(x), _ROWS_AT_ONCE):
        total += x[start : start + _ROWS_AT_ONCE].sum(dim=0, dtype=torch.float64)
    return total / len(x)


def centre_rows(rows: Float[Tensor, "some images"]) -> Float[Tensor, "some images"]:
    """Subtract every row's mean from it, in place.

    Twice: where a mean is large beside the spread, its own rounding is what the second removes.
    """
    for _ in range(2):
        rows.sub_(rows.mean(dim=1, keepdim=True))
    return rows


def _centred(
    x: Float[Tensor, "images columns"], center: bool
) -> tuple[Float[Tensor, "images columns"], Float[Tensor, " columns"]]:
    """The matrix in float64, centred over images if asked, and its columns' squared lengths."""
    wide = x.double()
    if not center:
        return wide, wide.square().sum(0)
    moved = wide - wide.mean(0)
    return moved, _without_constants(moved.square().sum(0), wide.square().sum(0))


def _without_constants(
    squares: Float[Tensor, " columns"], whole: Float[Tensor, " columns"]
) -> Float[Tensor, " columns"]:
    """Squared centred lengths, 0 where only rounding keeps a column from being constant."""
    return torch.where(squares > _CONSTANT**2 * whole, squares, 0.0)
