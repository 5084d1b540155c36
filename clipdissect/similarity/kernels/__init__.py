"""The inner loops: by Numba on a CPU, by Triton on a GPU, plain torch where these don't work."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clipdissect.similarity.kernels import plain
from clipdissect.utils.compiled_kernels import CompiledKernels, GpuKernels

COMPILED = CompiledKernels("clipdissect.similarity.kernels.compiled", "torch")
FUSED = GpuKernels("clipdissect.similarity.kernels.fused", "torch")
# Threads take whole cache lines of concepts, so that no two write to the same line.
_CONCEPTS_STEP = 32
# Insertion into a sorted list is the fastest for short lists only.
_LONGEST_INSERTION = 64
# Scores that one thread looks through faster than another thread starts.
_SCORES_PER_THREAD = 1_000_000


def backend() -> str:
    """Return the implementation that runs on a CPU: `numba` or `torch`."""
    return "torch" if COMPILED.module() is None else "numba"


def exponentials(
    x: Float[Tensor, "rows block"],
    a: float,
    shift: Float[Tensor, " rows"] | None,
    out: Float[Tensor, "rows block"],
    sums: Float[Tensor, " rows"] | None,
) -> None:
    """Apply `plain.exponentials`."""
    arguments = (x, a, shift, out, sums)
    if not FUSED.run("exponentials", arguments):
        plain.exponentials(*arguments)


def log_product_sums(
    x: Float[Tensor, "images block"],
    index: Int[Tensor, "units k"],
    scale: Float[Tensor, " images"],
    base: Float[Tensor, "units_or_1 k"],
    weight: Float[Tensor, "one_or_units k"],
    group: int,
) -> Float[Tensor, "units block"]:
    """Compute `plain.log_product_sums`."""
    out = torch.empty(len(index), x.shape[1], dtype=torch.float32, device=x.device)
    arguments = (x, index, scale, base, weight, group)
    if FUSED.run("log_product_sums", (*arguments, out)) or COMPILED.run(
        "log_product_sums", x.shape[1], (*arguments, out), _CONCEPTS_STEP
    ):
        return out
    return plain.log_product_sums(*arguments)


def less_marginal(
    joint: Float[Tensor, "units block"],
    lam: float,
    layers: Sequence[int] = (),
    extra: Sequence[int] = (),
) -> Float[Tensor, "units block"]:
    """Apply `plain.less_marginal` in place per layer; `layers` are units per layer, if any.

    `extra` are further rows per layer, after all units; see `TopActivations.extra`.
    """
    if not lam:
        return joint
    sizes = list(layers) or [len(joint)]
    parts = torch.split(joint, [*sizes, *extra])
    for layer, more in zip_longest(parts[: len(sizes)], parts[len(sizes) :]):
        first = layer[0].clone()
        arguments = (layer, float(lam))
        if not COMPILED.run("less_marginal", layer.shape[1], arguments, _CONCEPTS_STEP):
            plain.less_marginal(layer, lam)
        if more is not None:
            more.sub_(first - layer[0])  # the term that was subtracted from every unit
    return joint


def rank_errors(
    columns: Float[Tensor, "block images"],
    index: Int[Tensor, "units k"],
    values: Float[Tensor, "units k"],
    p: float,
) -> Float[Tensor, "units block"]:
    """Compute `plain.rank_errors`."""
    out = torch.empty(len(index), len(columns), dtype=torch.float32, device=columns.device)
    arguments = (index, values, float(p), out)
    if FUSED.run("rank_errors", (columns, *arguments)) or COMPILED.run(
        "rank_errors", len(columns), (columns.view(torch.uint32), *arguments)
    ):
        return out
    return plain.rank_errors(columns, index, values, p)


def update_best(
    best: Float[Tensor, "units n"],
    concepts: Int[Tensor, "units n"],
    scores: Float[Tensor, "units block"],
    start: int,
) -> None:
    """Apply `plain.update_best`."""
    step = max(1, _SCORES_PER_THREAD // scores.shape[1])
    arguments = (best, concepts, scores, start)
    short = best.shape[1] <= _LONGEST_INSERTION
    if not (short and COMPILED.run("update_best", len(scores), arguments, step)):
        plain.update_best(best, concepts, scores, start)
