"""Time of INVERT's beam search against a plain one, which scores each formula with scikit-learn.

    python scripts/benchmark_invert.py                                  # 512 units, 1000 concepts
    python scripts/benchmark_invert.py --units 2048 --images 50000 --density 0.01

Both search for the same units' formulas among the same random labels, by as many threads as torch
takes; the plain one searches the first unit and fewer concepts, and its time per formula is scaled.
"""

from __future__ import annotations

import argparse
import datetime
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from clipdissect.app.console import markdown_table
from clipdissect.app.runtime.microbenchmarks import memory_of, processor, reset_peak_memory
from clipdissect.method.auroc_search import JOINS, AurocSearch, centred_ranks

SIZES = {"images": 10_000, "units": 512, "concepts": 1000, "length": 3, "beam": 5}


def inputs(a: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Return activations half of which are 0, and labels that they depend on."""
    generator = torch.Generator().manual_seed(0)
    rates = 2 * a.density * torch.rand(a.concepts, 1, generator=generator)
    shown = torch.rand(a.concepts, a.images, generator=generator) < rates
    noise = torch.randn(a.images, a.units, generator=generator)
    return (noise + shown[torch.arange(a.units) % a.concepts].T).relu(), shown


def fast(a: argparse.Namespace, activations: torch.Tensor, shown: torch.Tensor) -> list[float]:
    search = AurocSearch(shown, a.length, a.beam, smallest=10, largest=a.images // 2)
    return [beam[0].auroc for beam in search.search(centred_ranks(activations))]


def plain(a: argparse.Namespace, activations: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
    """Return a unit's best area, and the number of formulas scored."""
    scored = 0

    def area(images: np.ndarray) -> float:
        nonlocal scored
        if not 10 <= images.sum() <= a.images // 2:
            return 0.0
        scored += 1
        return float(roc_auc_score(images, activations))

    literals = [*labels, *~labels]
    beam = sorted(((area(images), n, images) for n, images in enumerate(literals)), reverse=True)
    beam = beam[: a.beam]
    for _ in range(2, a.length + 1):
        longer = [
            joined
            for _, _, images in beam
            for label in labels
            for joined in (images & label, images & ~label, images | label, images | ~label)
        ]
        new = [(area(images), n, images) for n, images in enumerate(longer)]
        best = sorted([*beam, *new], key=lambda entry: -entry[0])
        beam, known = [], set()
        for entry in best:
            if len(beam) < a.beam and entry[2].tobytes() not in known:
                known.add(entry[2].tobytes())
                beam.append(entry)
    return beam[0][0], scored


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(*arguments), time.perf_counter() - start


def row(a: argparse.Namespace, activations: torch.Tensor, shown: torch.Tensor) -> list[str]:
    """Measure both sides once."""
    reset_peak_memory()
    before = memory_of("VmRSS")
    busy = time.process_time()
    _, seconds = timed(fast, a, activations, shown)
    busy = time.process_time() - busy
    peak = memory_of("VmHWM") - before
    few = shown[: a.sample]
    first = activations[:, 0]
    (expected, scored), loop = timed(plain, a, first.numpy(), few.numpy())
    found = fast(a, first[:, None], few)[0]
    candidates = 2 * a.concepts + (a.length - 1) * a.beam * len(JOINS) * a.concepts
    loop *= candidates * a.units / scored
    ratio, difference = f"{loop / seconds:.0f}", f"{abs(found - expected):.0e}"
    return [f"{loop:.0f}", f"{seconds:.1f}", f"{busy:.1f}", ratio, f"{peak / 1e6:.0f}", difference]


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark of INVERT's search")
    for name, size in {**SIZES, "sample": 20, "repeat": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--density", type=float, default=0.05, help="mean share of images")
    a = parser.parse_args()
    given = inputs(a)
    fast(a, given[0][:, :1], given[1][:2])
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    print(
        f"{processor()}, {torch.get_num_threads()} threads; {datetime.date.today()}; load before "
        f"{load}\n{', '.join(f'{getattr(a, name)} {name}' for name in SIZES)}; the plain search: "
        f"{a.sample} concepts, one unit; MB above the inputs\n"
    )
    header = ["plain s", "s", "CPU s", "ratio", "MB", "difference"]
    print(markdown_table(header, [row(a, *given) for _ in range(a.repeat)]))


if __name__ == "__main__":
    main()
