"""The inner loops as Triton kernels, for float32 arrays on a GPU; `plain` is the reference.

With `TRITON_INTERPRET=1` at import they run on CPU tensors, which is how the tests check them.
"""

# No `annotations` from the future: Triton reads the annotations of kernels themselves.

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.similarity.kernels import plain

# Concepts per program: a block of this many concepts of all images stays in the L2 cache while the
# units, which run fastest, gather from it (51 MB for 50,000 images).
_LANES = 256
_ROW_LANES = 1024
# Top images per unit that are sorted in registers, and how many of them by one warp: with 64 keys
# per thread most steps of the sort stay within a thread.
_MAX_SORTED = 16_384
_KEYS_PER_WARP = 2048
_LARGEST_INT32 = 2**31 - 1

_jit: Callable[[Callable[..., Any]], Any] = triton.jit


@_jit
def _exponentials(x, out, shift, sums, a, block, SHIFTED: tl.constexpr, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Compute a row of `plain.exponentials`."""
    row = tl.program_id(0)
    start = row.to(tl.int64) * block
    total = tl.zeros([LANES], tl.float32)
    for first in range(0, block, LANES):
        concepts = first + tl.arange(0, LANES)
        inside = concepts < block
        value = tl.load(x + start + concepts, mask=inside, other=0.0) * a
        if SHIFTED:
            value -= tl.load(shift + row)
        value = tl.where(inside, tl.exp(value), 0.0)
        tl.store(out + start + concepts, value, mask=inside)
        total += value
    tl.store(sums + row, tl.sum(total.to(tl.float64)))


@_jit
def _log_product_sums(  # type: ignore[no-untyped-def]
    x,
    index,
    scale,
    base,
    weight,
    out,
    block,
    k,
    base_stride,
    weight_stride,
    GROUP: tl.constexpr,
    LANES: tl.constexpr,
):
    """Compute `plain.log_product_sums` for one unit and some concepts."""
    unit = tl.program_id(0).to(tl.int64)
    concepts = tl.program_id(1) * LANES + tl.arange(0, LANES)
    inside = concepts < block
    total = tl.zeros([LANES], tl.float32)
    for first in range(0, k, GROUP):
        run = tl.full([LANES], 1.0, tl.float32)
        for step in tl.static_range(GROUP):
            j = first + step
            image = tl.load(index + unit * k + j, mask=j < k, other=0).to(tl.int64)
            w = tl.load(weight + unit * weight_stride + j, mask=j < k, other=0.0)
            b = tl.load(base + unit * base_stride + j, mask=j < k, other=1.0)
            value = tl.load(x + image * block + concepts, mask=inside, other=0.0)
            run *= b + w * tl.load(scale + image) * value
        total += tl.log(run)
    tl.store(out + unit * block + concepts, total, mask=inside)


@_jit
def _rank_errors(  # type: ignore[no-untyped-def]
    places,
    index,
    values,
    out,
    images,
    block,
    k,
    p,
    P: tl.constexpr,
    WIDE: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Compute `plain.rank_errors` for one unit and one concept, from places of images."""
    unit, concept = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    j = tl.arange(0, KEYS)
    inside = j < k
    image = tl.load(index + unit * k + j, mask=inside, other=0)
    place = tl.load(places + concept * images + image, mask=inside, other=images)
    # Sorted by place, then by activation; what is beyond k comes last.
    key = place.to(tl.int64) * KEYS + j if WIDE else place * KEYS + j
    original = (tl.sort(key) & (KEYS - 1)).to(tl.int32)
    own = tl.load(values + unit * k + original, mask=inside, other=0.0)
    difference = tl.abs(tl.load(values + unit * k + j, mask=inside, other=0.0) - own)
    if P == 1:
        power = difference
    elif P == 2:
        power = difference * difference
    elif P == 3:
        power = difference * difference * difference
    else:
        power = tl.where(difference > 0, tl.exp2(p * tl.log2(difference)), 0.0)
    tl.store(out + unit * block + concept, tl.sum(power))


def exponentials(
    x: Float[Tensor, "rows block"],
    a: float,
    shift: Float[Tensor, " rows"] | None,
    out: Float[Tensor, "rows block"],
    sums: Float[Tensor, " rows"] | None,
) -> None:
    """Compute `plain.exponentials`, reading and writing each number once."""
    rows, block = x.shape
    row_sums = torch.empty(rows, dtype=torch.float64, device=x.device)
    shifts = x if shift is None else shift
    _exponentials[(rows,)](x, out, shifts, row_sums, a, block, shift is not None, _ROW_LANES)
    if sums is not None:
        sums += row_sums


def log_product_sums(
    x: Float[Tensor, "images block"],
    index: Int[Tensor, "units k"],
    scale: Float[Tensor, " images"],
    base: Float[Tensor, "units_or_1 k"],
    weight: Float[Tensor, "one_or_units k"],
    group: int,
    out: Float[Tensor, "units block"],
) -> None:
    """Compute `plain.log_product_sums` into `out`, gathering each number once."""
    units, k = index.shape
    grid = (units, triton.cdiv(x.shape[1], _LANES))
    strides = (0 if len(base) == 1 else k, 0 if len(weight) == 1 else k)
    base, weight = base.contiguous(), weight.contiguous()
    _log_product_sums[grid](
        x, index, scale, base, weight, out, x.shape[1], k, *strides, group, _LANES
    )


def rank_errors(
    columns: Float[Tensor, "block images"],
    index: Int[Tensor, "units k"],
    values: Float[Tensor, "units k"],
    p: float,
    out: Float[Tensor, "units block"],
) -> None:
    """Compute `plain.rank_errors` into `out`; each column is sorted once for all units."""
    (block, images), (units, k) = columns.shape, index.shape
    if k > _MAX_SORTED:
        out.copy_(plain.rank_errors(columns, index, values, p))
        return
    places, keys = plain.dense_places(columns), triton.next_power_of_2(k)
    wide = (images + 1) * keys > _LARGEST_INT32
    power = int(p) if p in (1, 2, 3) else 0
    warps = max(1, keys // _KEYS_PER_WARP)
    _rank_errors[(units, block)](
        places, index, values, out, images, block, k, p, power, wide, keys, num_warps=warps
    )
