"""Top-k images per unit of an activation matrix, and merging of parts of a probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.similarity import checks
from clipdissect.similarity.inputs import TopActivations
from clipdissect.similarity.kernels.plain import from_sort_keys, largest, sort_keys

# Activations that are looked through at once: on a CPU what stays in its cache, elsewhere enough to
# keep a device busy.
_NUMBERS_AT_ONCE, _NUMBERS_AT_ONCE_ON_DEVICE = 500_000, 100_000_000


def top_images(
    q: Float[Tensor, "images units"], k: int, first: int = 0, name: str = "top_k"
) -> TopActivations:
    """Return the `k` most activating images per unit, best first, ties by image number.

    Rows of `q` are images from number `first` on; `name` is the user's name of `k`. Raises:
    DissectError for `k` out of range, NaN or infinite activations.
    """
    checks.number(name, k, least=1, whole=True)
    checks.matrix("q", q, "images", "units")
    images, units = q.shape
    if k > images:
        raise DissectError(f"{name}={k} is larger than the probe: {images} images")
    values = torch.empty(k, units, dtype=torch.float32, device=q.device)
    indices = torch.empty(k, units, dtype=torch.int64, device=q.device)
    numbers = torch.arange(first, first + images, device=q.device)
    at_once = _NUMBERS_AT_ONCE if q.device.type == "cpu" else _NUMBERS_AT_ONCE_ON_DEVICE
    step = max(1, at_once // images)
    for start in range(0, units, step):
        part = q[:, start : start + step].T.float().contiguous()
        part_values, part_indices = largest(part, numbers, k)
        values[:, start : start + step] = part_values.T
        indices[:, start : start + step] = part_indices.T
    return TopActivations(values=values, indices=indices, images=images)


def merge(a: TopActivations, b: TopActivations, k: int | None = None) -> TopActivations:
    """Merge the top images of two disjoint parts of a probe, numbered as in the whole probe.

    Commutative and, for a constant `k`, associative. Without `k`, or where the parts determine
    fewer ranks, all that they determine. Source: DESIGN.md, "Mathematics worth using", item 7.
    """
    checks.same("units", a.values.shape[1], "the first part", b.values.shape[1], "the second")
    if k is not None:
        checks.number("k", k, least=1, whole=True)
    # A truncated part doesn't determine any rank below its last image.
    truncated = [len(part.values) for part in (a, b) if len(part.values) < part.images]
    size = min([len(a.values) + len(b.values), *truncated, *([] if k is None else [k])])
    values = torch.cat([a.values.float(), b.values.float()])
    keys = sort_keys(values, torch.cat([a.indices, b.indices]))
    best = torch.topk(keys.T.contiguous(), size, dim=1).values
    best_values, best_indices = from_sort_keys(best)
    return TopActivations(
        values=best_values.T.contiguous(),
        indices=best_indices.T.contiguous(),
        images=a.images + b.images,
    )


def concat_layers(
    layers: Sequence[TopActivations], extra: Sequence[TopActivations] = ()
) -> TopActivations:
    """Concatenate the units of layers with the same probe and k, to score them in one pass.

    `extra` has further rows of each layer, if any; see `TopActivations.extra`.
    """
    first = layers[0]
    for layer in (*layers[1:], *extra):
        checks.same("images", first.images, "the first", layer.images, "a layer")
        checks.same("top images", len(first.values), "the first", len(layer.values), "a layer")
    return TopActivations(
        values=torch.cat([layer.values.float() for layer in (*layers, *extra)], dim=1),
        indices=torch.cat([layer.indices for layer in (*layers, *extra)], dim=1),
        images=first.images,
        layers=tuple(layer.values.shape[1] for layer in layers),
        extra=tuple(layer.values.shape[1] for layer in extra),
    )


def as_top(
    q: Float[Tensor, "images units"] | TopActivations, k: int, images: int, name: str
) -> TopActivations:
    """Return the top `k` images from all activations, or from at least `k` top images."""
    if not isinstance(q, TopActivations):
        checks.same("images", q.shape[0] if q.ndim else 0, "q", images, "P")
        return top_images(q, k, name=name)
    checks.same("images", q.images, "q", images, "P")
    if k > images:
        raise DissectError(f"{name}={k} is larger than the probe: {images} images")
    stored = len(q.values)
    if k > stored:
        raise DissectError(f"{name} needs the top {k} images per unit; q has {stored}")
    checks.matrix("q", q.values, "k", "units")
    if q.indices.shape != q.values.shape:
        raise DissectError(
            f"q has values {tuple(q.values.shape)} but indices {tuple(q.indices.shape)}"
        )
    if int(q.indices.min()) < 0 or int(q.indices.max()) >= images:
        raise DissectError(f"q numbers images beyond the probe: {images} images")
    return replace(q, values=q.values[:k].float(), indices=q.indices[:k])
