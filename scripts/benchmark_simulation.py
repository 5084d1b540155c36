"""Time and memory of simulation scores against SciPy's functions in a plain loop over pairs.

    python scripts/benchmark_simulation.py                                # 100,000 pairs
    python scripts/benchmark_simulation.py --pairs 4000000 --units 2000 --texts 2000

Both sides score the same random numbers in turn, by as many threads as torch takes; the loop scores
a sample of the pairs, and its time is scaled.
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
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

from clipdissect.app.console import markdown_table
from clipdissect.app.runtime.microbenchmarks import memory_of, processor, reset_peak_memory
from clipdissect.scores.base import Pairs, Scores
from clipdissect.scores.simulation import simulation_scores


def inputs(a: argparse.Namespace) -> tuple[Tensor, Tensor, Pairs]:
    """Return activations half of which are 0, simulated ones, and random pairs."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    numbers = (generator.integers(0, count, a.pairs) for count in (a.units, a.texts))
    activations = torch.randn(a.images, a.units).relu_()
    return activations, torch.rand(a.images, a.texts), Pairs(*numbers)


def plain(activations: Tensor, simulated: Tensor, pairs: Pairs) -> Scores:
    """Score pairs one after the other."""
    columns = [
        (activations[:, unit].numpy(), simulated[:, text].numpy())
        for unit, text in zip(pairs.units, pairs.texts, strict=True)
    ]
    return {
        "simulation": np.array([pearsonr(x, y).statistic for x, y in columns]),
        "simulation_spearman": np.array([spearmanr(x, y).statistic for x, y in columns]),
    }


def timed(work: Callable[..., Scores], *arguments: Any) -> tuple[Scores, float]:
    start = time.perf_counter()
    return work(*arguments), time.perf_counter() - start


def row(a: argparse.Namespace, given: tuple[Tensor, Tensor, Pairs]) -> list[str]:
    """Measure both sides once."""
    activations, simulated, pairs = given
    reset_peak_memory()
    before = memory_of("VmRSS")
    scores, seconds = timed(simulation_scores, *given)
    peak = memory_of("VmHWM") - before
    sample = Pairs(pairs.units[: a.sample], pairs.texts[: a.sample])
    expected, loop = timed(plain, activations, simulated, sample)
    loop *= len(pairs) / len(sample)
    difference = max(np.abs(scores[k][: a.sample] - expected[k]).max() for k in scores)
    ratio = f"{loop / seconds:.0f}"
    return [f"{loop:.0f}", f"{seconds:.1f}", ratio, f"{peak / 1e6:.0f}", f"{difference:.0e}"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark of simulation scores")
    sizes = {"images": 10_000, "units": 4000, "texts": 20_000, "pairs": 100_000}
    for name, size in {**sizes, "sample": 500, "repeat": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    a = parser.parse_args()
    simulation_scores(torch.rand(9, 2), torch.rand(9, 2), Pairs(np.zeros(1, int), np.ones(1, int)))
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    print(
        f"{processor()}, {torch.get_num_threads()} threads; {datetime.date.today()}; load before "
        f"{load}\n{', '.join(f'{getattr(a, name)} {name}' for name in sizes)}; the loop on "
        f"{a.sample} pairs; MB above the inputs\n"
    )
    header = ["loop s", "s", "ratio", "MB", "largest difference"]
    given = inputs(a)
    print(markdown_table(header, [row(a, given) for _ in range(a.repeat)]))


if __name__ == "__main__":
    main()
