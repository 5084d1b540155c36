"""Microbenchmarks at several sizes, ours and the plain pipeline's by turns."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipdissect.app.runtime.baseline import PlainPipeline, parameters_of, soft_wpmi
from clipdissect.capture.capture import capture
from clipdissect.method import Job
from clipdissect.similarity import ConceptActivations, Similarity
from clipdissect.store import Store
from clipdissect.utils.timing import Timers

OURS, PLAIN = "clip_dissect", "plain"
# Other ways to write the plain loop, measured at the base size.
VARIANTS: dict[str, dict[str, str]] = {
    PLAIN: {},
    "plain, images by index": {"rows": "index"},
    "plain, scores in an array": {"results": "array"},
    "plain, both": {"rows": "index", "results": "array"},
}
AXES = ("images", "units", "concepts")


def scoring(
    similarity: Similarity,
    sizes: Mapping[str, Sequence[int]],
    base: Mapping[str, int],
    dims: int,
    repeats: int,
    plain: bool,
) -> pd.DataFrame:
    """Measure the scoring of a layer along each of `AXES`, the others at their base size.

    Returns `axis, images, units, concepts, repeat, side, seconds`, without the warm-up. Axis
    `variants` has other ways to write the plain loop.
    """
    sides: dict[str, dict[str, str]] = {OURS: {}, PLAIN: {}} if plain else {OURS: {}}
    jobs = [(axis, {**base, axis: n}, sides) for axis in AXES for n in sizes.get(axis, ())]
    if plain:
        jobs.append(("variants", dict(base), {OURS: {}, **VARIANTS}))
    rows = []
    for axis, point, options in jobs:
        factors, q = synthetic_inputs(**point, dims=dims)
        works = {
            side: partial(_score, similarity, factors, q, side, variant)
            for side, variant in options.items()
        }
        rows += [{"axis": axis, **point, **row} for row in in_turn(works, repeats)]
    return _frame(rows)


def passes(job: Job, sizes: Sequence[int], repeats: int, plain: Job | None) -> pd.DataFrame:
    """Measure decoding and both networks on the probe's first images; skip larger sizes.

    Returns `axis` (`pass`), `images`, `repeat`, `side`, `seconds`. `plain` is the plain
    pipeline's job, whose batches may differ.
    """
    assert job.probe is not None
    rows = []
    for size in (n for n in sizes if n <= len(job.probe)):
        probe = job.probe.subset(range(size))
        works = {OURS: partial(_capture, replace(job, probe=probe))}
        if plain is not None:
            works[PLAIN] = partial(_plain_pass, replace(plain, probe=probe))
        rows += [{"axis": "pass", "images": size, **row} for row in in_turn(works, repeats)]
    return _frame(rows)


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """Fit `seconds` to a power of size by axis and side; NaN for an axis with one size.

    A line through the logarithms of the medians; returns `axis, side, from, to, exponent`.
    """
    rows = []
    pieces = table[table["axis"] != "variants"]
    for (axis, side), group in pieces.groupby(["axis", "side"], sort=False):
        medians = group.groupby("images" if axis == "pass" else str(axis))["seconds"].median()
        slope = np.nan
        if len(medians) > 1:
            slope = np.polyfit(np.log(medians.index), np.log(medians), 1)[0]
        ends = {"from": int(medians.index[0]), "to": int(medians.index[-1])}
        rows.append({"axis": axis, "side": side, **ends, "exponent": float(slope)})
    return _frame(rows)


def model(table: pd.DataFrame, side: str) -> tuple[float, float, float]:
    """Fit `seconds = a * images * concepts + b * units * concepts + c`, none negative.

    Least squares of relative errors over the rows of `scoring`.
    """
    from scipy.optimize import nnls

    rows = table[(table["side"] == side) & table["axis"].isin(AXES)]
    images, units, concepts = (rows[axis].to_numpy(float) for axis in AXES)
    terms = np.stack([images * concepts, units * concepts, np.ones(len(rows))], axis=1)
    scale = terms.max(0)
    relative = terms / scale / rows["seconds"].to_numpy(float)[:, None]
    coefficients, _ = nnls(relative, np.ones(len(rows)))
    a, b, c = coefficients / scale
    return float(a), float(b), float(c)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame: pd.DataFrame = pd.DataFrame(rows)
    return frame


def _score(
    similarity: Similarity,
    factors: ConceptActivations,
    q: Tensor,
    side: str,
    variant: dict[str, Any],
) -> float:
    start = time.perf_counter()
    if side == OURS:
        similarity.top(factors, q, 1)
    else:
        P = factors.image_embeds @ factors.text_embeds.T
        soft_wpmi(P, q, **parameters_of(similarity), **variant).max(1)
    return time.perf_counter() - start


def _capture(job: Job) -> float:
    assert job.target and job.encoder and job.probe
    with TemporaryDirectory() as folder:
        store, layers = Store(Path(folder)), job.target.layers
        captured = capture(job.target, layers, job.encoder, job.probe, store, job.settings)
    return captured.seconds["decode"] + captured.seconds["forward"]


def _plain_pass(job: Job) -> float:
    timers = Timers()
    with TemporaryDirectory() as folder:
        plain_pipeline(job, Path(folder), timers).features()
    return timers.seconds["decode"] + timers.seconds["forward"]


def plain_pipeline(job: Job, folder: Path, timers: Timers) -> PlainPipeline:
    assert job.target and job.probe and job.concepts and job.encoder and job.similarity
    parts = job.target, job.probe, job.concepts.texts, job.encoder, job.similarity
    return PlainPipeline(*parts, job.settings, folder, timers)


def in_turn(works: Mapping[str, Callable[[], float]], repeats: int) -> Iterator[dict[str, Any]]:
    """Yield `repeat`, `side` and `seconds` of interleaved functions after a warm-up.

    A machine's speed drifts within minutes: compare values of the same repeat.
    """
    names = list(works)
    for repeat in range(-1, repeats):
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            seconds = works[name]()
            if repeat >= 0:
                yield {"repeat": repeat, "side": name, "seconds": seconds}


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the median, least and largest value, and `each`."""
    numbers = list(map(float, values))
    extremes = {"least": min(numbers), "most": max(numbers)}
    return {"median": float(np.median(numbers)), **extremes, "each": numbers}


def ratios(rows: pd.DataFrame, side: str, by: str = "repeat", base: str = OURS) -> list[float]:
    """Return a side's seconds over those of the base, per repeat."""
    seconds, reference = (
        rows[rows["side"] == name].set_index(by)["seconds"] for name in (side, base)
    )
    return [float(value) for value in seconds / reference]


def synchronize(device: str) -> None:
    """Wait for the GPU, where kernels run asynchronously."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def synthetic_inputs(
    images: int, units: int, concepts: int, dims: int
) -> tuple[ConceptActivations, Tensor]:
    """Return embeddings with CLIP's cosines, about 0.2 ± 0.04, and normal activations."""
    generator = torch.Generator().manual_seed(0)
    factors = []
    for count in (images, concepts):
        embeds = torch.randn(count, dims, generator=generator).mul_(dims**-0.5)
        embeds[:, 0] += 0.5
        factors.append(torch.nn.functional.normalize(embeds, dim=1))
    return ConceptActivations(*factors), torch.randn(images, units, generator=generator)


def reset_peak_memory() -> None:
    """Measure peak memory from now on, where the platform can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> dict[str, int | None]:
    """Return the peak memory of the process in bytes: `ram`, and `gpu` or None."""
    gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    try:
        ram = memory_of("VmHWM")
    except (OSError, StopIteration):  # not Linux: since the process began
        unit = 1 if sys.platform == "darwin" else 1024
        ram = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"ram": ram, "gpu": gpu}


def memory_of(field: str) -> int:
    """Return the bytes of a field of the process's status on Linux, such as VmRSS."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
