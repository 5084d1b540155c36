"""Every unit's most activating images: the top k of an activation matrix, and merging of parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.similarity import checks
from clipdissect.similarity.inputs import TopActivations
from clipdissect.similarity.keys import pack, unpack

# Bytes of keys in flight at a time: small beside any model, large enough to keep cores busy.
_CHUNK_BYTES = 4_000_000


def top_images(
    q: Float[Tensor, "images units"], k: int, first: int = 0, name: str = "top_k"
) -> TopActivations:
    """The `k` most activating images of every unit, best first, ties by image number.

    Args:
        q: activations `[images, units]`; compared as float32.
        k: how many images to keep.
        first: number of the first row, where `q` is one part of a larger probe.
        name: what the user calls `k`, for the error.

    Returns:
        Values and numbers `[k, units]`, on q's device, the same on every device.

    Raises:
        DissectError: `k` below 1 or above the number of images; NaN or infinite activations.

    Source: the set B_k of the paper, Sec. 3.2 and Eq. (6).
    """
    checks.number(name, k, least=1, whole=True)
    checks.matrix("q", q, "images", "units")
    images, units = q.shape
    if k > images:
        raise DissectError(f"{name}={k} is larger than the probe: {images} images")
    values = torch.empty(k, units, dtype=torch.float32, device=q.device)
    indices = torch.empty(k, units, dtype=torch.int64, device=q.device)
    numbers = torch.arange(first, first + images, device=q.device)
    step = max(1, _CHUNK_BYTES // (8 * images))
    for start in range(0, units, step):
        part = q[:, start : start + step].T.float().contiguous()
        best = torch.topk(pack(part, numbers), k, dim=1).values
        part_values, part_indices = unpack(best)
        values[:, start : start + step] = part_values.T
        indices[:, start : start + step] = part_indices.T
    return TopActivations(values=values, indices=indices, images=images)


def merge(a: TopActivations, b: TopActivations, k: int | None = None) -> TopActivations:
    """The top images of two disjoint parts of a probe, from the top images of each.

    Image numbers must be those of the whole probe (`first` of `top_images`). The operation is
    commutative and, for one `k` throughout, associative: parts may be merged in any order.

    Args:
        a: one part.
        b: the other part, with the same units.
        k: how many images to keep; None keeps as many as the two parts determine. Fewer than `k`
            come back while the parts together hold fewer.

    Raises:
        DissectError: the parts have different numbers of units, or `k` is below 1.

    Source: DESIGN.md, "Mathematics worth using", item 7.
    """
    checks.same("units", a.values.shape[1], "the first part", b.values.shape[1], "the second")
    if k is not None:
        checks.number("k", k, least=1, whole=True)
    # A part that dropped images knows nothing below its last kept one.
    known = [len(part.values) for part in (a, b) if len(part.values) < part.images]
    keep = min([len(a.values) + len(b.values), *known, *([] if k is None else [k])])
    values = torch.cat([a.values.float(), b.values.float()])
    keys = pack(values, torch.cat([a.indices, b.indices]))
    best = torch.topk(keys.T.contiguous(), keep, dim=1).values
    kept_values, kept_indices = unpack(best)
    return TopActivations(
        values=kept_values.T.contiguous(),
        indices=kept_indices.T.contiguous(),
        images=a.images + b.images,
    )


def beside(parts: Sequence[TopActivations]) -> TopActivations:
    """The top images of several layers' units, side by side, to be scored together.

    Args:
        parts: one a layer, from the same images, as many images a unit in each.

    Raises:
        DissectError: the parts disagree in the images kept or in the images of the probe.
    """
    for part in parts[1:]:
        checks.same("images", parts[0].images, "the first", part.images, "a layer")
        checks.same("images kept", len(parts[0].values), "the first", len(part.values), "a layer")
    return TopActivations(
        values=torch.cat([part.values.float() for part in parts], dim=1),
        indices=torch.cat([part.indices for part in parts], dim=1),
        images=parts[0].images,
        layers=tuple(part.values.shape[1] for part in parts),
    )


def as_top(
    q: Float[Tensor, "images units"] | TopActivations, k: int, images: int, name: str
) -> TopActivations:
    """The top `k` images from either form of activations.

    Args:
        q: all activations, or the running top images of the capture step (at least `k` a unit).
        k: images wanted.
        images: images in the probe, which `q` must agree with.
        name: the parameter that asks for `k` images.

    Raises:
        DissectError: as `top_images`; too few images kept; another number of images.
    """
    if not isinstance(q, TopActivations):
        checks.same("images", q.shape[0] if q.ndim else 0, "q", images, "P")
        return top_images(q, k, name=name)
    checks.same("images", q.images, "q", images, "P")
    if k > images:
        raise DissectError(f"{name}={k} is larger than the probe: {images} images")
    kept = len(q.values)
    if k > kept:
        raise DissectError(f"{name} needs the top {k} images of every unit; q keeps {kept}")
    checks.matrix("q", q.values, "k", "units")
    if q.indices.shape != q.values.shape:
        raise DissectError(
            f"q has values {tuple(q.values.shape)} but indices {tuple(q.indices.shape)}"
        )
    if int(q.indices.min()) < 0 or int(q.indices.max()) >= images:
        raise DissectError(f"q numbers images beyond the probe: {images} images")
    return replace(q, values=q.values[:k].float(), indices=q.indices[:k])
