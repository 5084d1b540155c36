"""Shared by benchmarks: interleaved measurements, ratios, peak memory, inputs."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from clipdissect.similarity import ConceptActivations

OURS, PLAIN = "clip_dissect", "plain"


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
