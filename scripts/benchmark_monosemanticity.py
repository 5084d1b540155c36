#!/usr/bin/env python
"""Time of MonoSemanticity in closed form against the loop over pairs of images, in one process.

    python scripts/benchmark_monosemanticity.py
    python scripts/benchmark_monosemanticity.py --images 50000 --units 3904 --no-loop

The loop takes each pair's cosine for all units at once, and its time grows with the square of the
images. Both are measured in turn; the ratio is of the medians.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from clipdissect.app.console import markdown_table
from clipdissect.app.runtime.microbenchmarks import processor
from clipdissect.results.coherence import monosemanticity


def main() -> None:
    options = parsed()
    torch.manual_seed(0)
    embeds = torch.randn(options.images, options.dims)
    activations = torch.randn(options.images, options.units).relu_()
    functions = {"closed form": monosemanticity} | ({"loop": looped} if options.loop else {})
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    values = {}
    for _ in range(options.repeat):
        for name, function in functions.items():
            start = time.perf_counter()
            values[name] = function(embeds, activations)
            seconds[name].append(time.perf_counter() - start)
    rows = [(name, f"{median(times):.4f}") for name, times in seconds.items()]
    print(f"{processor()}, {torch.get_num_threads()} threads, {options.images} images, ", end="")
    print(f"{options.units} units, {options.dims} dimensions, {options.repeat} repetitions\n")
    print(markdown_table(("", "seconds"), rows))
    if options.loop:
        difference = float((values["loop"] - values["closed form"]).abs().max())
        ratio = median(seconds["loop"]) / median(seconds["closed form"])
        print(f"ratio {ratio:.0f}, largest difference {difference:.1e}")


def looped(
    embeds: Float[Tensor, "images dims"], activations: Float[Tensor, "images units"]
) -> Float[Tensor, " units"]:
    """Return the mean cosine of pairs weighted by activations, one pair after the other."""
    unit, low = F.normalize(embeds, dim=1), activations.amin(0)
    weights = ((activations - low) / (activations.amax(0) - low)).double()
    total, pairs = torch.zeros(2, activations.shape[1], dtype=torch.float64)
    for i in range(len(unit)):
        for j in range(i):
            weight = weights[i] * weights[j]
            total += weight * torch.dot(unit[i], unit[j])
            pairs += weight
    return total / pairs


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--units", type=int, default=512)
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-loop", dest="loop", action="store_false")
    return parser.parse_args()


if __name__ == "__main__":
    main()
