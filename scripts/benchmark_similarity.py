"""Time and memory of the similarity functions against plain per-unit implementations.

    python scripts/benchmark_similarity.py                 # the table, then flatness in images
    python scripts/benchmark_similarity.py --million       # one million units as well
    python scripts/benchmark_similarity.py --functions soft_wpmi --images 10000 --no-flat

Each measurement is a separate, warmed-up process; memory is the rise above the inputs. The plain
side runs on `--plain-units` units if all would take too long, and its time is scaled.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clipdissect import similarity
from clipdissect.app.console import markdown_table
from clipdissect.app.runtime.microbenchmarks import (
    memory_of,
    processor,
    reset_peak_memory,
    synthetic_inputs,
)
from clipdissect.app.runtime.plain_similarity import Plain, timed_scores
from clipdissect.similarity import ConceptActivations, TopActivations, kernels, top_images

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "soft_wpmi": ("soft_wpmi", {}),
    "wpmi": ("wpmi", {}),
    "wpmi_linear": ("wpmi", {"eps": 0}),
    "rank_reorder": ("rank_reorder", {}),
    "cosine": ("cosine", {}),
    "cosine_cubed": ("cosine_cubed", {}),
    "lp": ("lp", {}),
}
# Units that take the plain side about a quarter of a minute.
PLAIN_UNITS = {"rank_reorder": 20, "cosine": 50, "cosine_cubed": 50, "lp": 50}
BEST = 10
SIZES = ("images", "concepts", "units", "dims", "repeat", "plain_units", "memory_gb")


def top_inputs(images: int, units: int, k: int) -> TopActivations:
    """Return top images of many units, without holding all activations."""
    torch.manual_seed(0)
    values, indices = torch.empty(k, units), torch.empty(k, units, dtype=torch.int64)
    for start in range(0, units, 10_000):
        part = top_images(torch.randn(images, min(10_000, units - start)), k)
        values[:, start : start + 10_000] = part.values
        indices[:, start : start + 10_000] = part.indices
    return TopActivations(values, indices, images)


def measure(work: Callable[[], Any], repeat: int) -> tuple[Any, float, int]:
    """Return the result, best time, and largest rise of resident memory of a function."""
    reset_peak_memory()
    before, best, result = memory_of("VmRSS"), float("inf"), None
    for _ in range(repeat):
        result = None
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return result, best, memory_of("VmHWM") - before


def run_plain(a: argparse.Namespace, factors: ConceptActivations, q: Tensor) -> dict[str, Any]:
    """Measure the plain side, and its difference to the streaming side on the same units."""
    name, parameters = CASES[a.case]
    count = min(a.units, a.plain_units or PLAIN_UNITS.get(name, a.units))
    seconds: list[float] = []

    def work() -> Tensor:
        scores, *seconds[:] = timed_scores(name, parameters, factors, q[:, :count])
        return scores

    scores, _, peak = measure(work, 1)
    best = similarity.build(name, **parameters).top(factors, q[:, :count].contiguous(), BEST)
    difference = float((scores.gather(1, best.concepts) - best.scores).abs().max())
    same = int((scores.argmax(1) == best.concepts[:, 0]).sum())
    per_unit = seconds[1] / count
    total = {"seconds": seconds[0] + per_unit * a.units, "per_unit": per_unit, "peak": peak}
    return {**total, "count": count, "difference": difference, "same": same}


def run_fast(a: argparse.Namespace, factors: ConceptActivations, q: Any) -> dict[str, Any]:
    name, parameters = CASES[a.case]
    function = similarity.build(name, **parameters, memory_gb=a.memory_gb)
    _, seconds, peak = measure(lambda: function.top(factors, q, BEST), a.repeat)
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak": peak, "whole": whole}


def worker(a: argparse.Namespace) -> dict[str, Any]:
    name, parameters = CASES[a.case]
    small, few = synthetic_inputs(2000, 8, 600, a.dims)
    similarity.build(name, **parameters).top(small, few, BEST)
    Plain(name, parameters, small).unit(few[:, 0])
    if a.million:
        factors, _ = synthetic_inputs(a.images, 1, a.concepts, a.dims)
        return run_fast(a, factors, top_inputs(a.images, a.units, 100))
    factors, q = synthetic_inputs(a.images, a.units, a.concepts, a.dims)
    return run_plain(a, factors, q) if a.worker == "plain" else run_fast(a, factors, q)


def start(side: str, case: str, a: argparse.Namespace, **changed: Any) -> dict[str, Any]:
    """Measure once, in a new process."""
    flags = {**vars(a), "million": False, **changed}
    command = [sys.executable, __file__, "--worker", side, "--case", case]
    for key in SIZES:
        command += [f"--{key.replace('_', '-')}", str(flags[key])]
    command += ["--million"] if flags["million"] else []
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def machine() -> str:
    try:
        import numba

        compiler = numba.__version__
    except ImportError:
        compiler = "none"
    load = " ".join(f"{x:.2f}" for x in os.getloadavg())
    return (
        f"{processor()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads; Python {platform.python_version()}, torch "
        f"{torch.__version__}, numba {compiler} (kernels: {kernels.backend()}); "
        f"{datetime.date.today()}; load before the run {load}"
    )


def print_table(header: list[str], rows: Any) -> None:
    """Print a Markdown table row by row, as they are measured."""
    print(markdown_table(header, []), end="")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def table(a: argparse.Namespace) -> None:
    print(
        f"{a.images} images, {a.concepts} concepts, {a.units} units, {a.dims} dims, best of "
        f"{a.repeat}; memory in MB above the inputs; difference over the {BEST} best concepts\n"
    )
    header = ["function", "plain s", "ms per unit", "streaming s", "ratio", "plain MB"]
    header += ["streaming MB", "part", "largest difference", "same best", "plain units"]
    print_table(header, (_row(a, case) for case in a.functions))


def _row(a: argparse.Namespace, case: str) -> list[str]:
    plain, fast = start("plain", case, a), start("fast", case, a)
    count = plain["count"]
    speeds = [f"{plain['seconds']:.2f}", f"{1e3 * plain['per_unit']:.2f}", f"{fast['seconds']:.3f}"]
    speeds.append(f"{plain['seconds'] / fast['seconds']:.1f}")
    memory = [f"{plain['peak'] / 1e6:.0f}", f"{fast['peak'] / 1e6:.0f}"]
    memory.append(f"1/{plain['peak'] / max(fast['peak'], 1):.1f}")
    agreement = [f"{plain['difference']:.1e}", f"{plain['same']}/{count}"]
    units = f"{count}" if count == a.units else f"{count}, scaled"
    return [case, *speeds, *memory, *agreement, units]


def flatness(a: argparse.Namespace) -> None:
    """Print peak memory as the number of images grows."""
    counts = (5_000, 20_000, 50_000)
    print(f"\nPeak MB above the inputs, {a.concepts} concepts, {a.units} units:\n")
    rows = (
        [case, *(f"{start('fast', case, a, images=n, repeat=1)['peak'] / 1e6:.0f}" for n in counts)]
        for case in a.functions
    )
    print_table(["function", *(f"{n} images" for n in counts)], rows)


def million(a: argparse.Namespace) -> None:
    print("\n1,000,000 units, 1000 concepts, 2000 images, given the top 100 images per unit:\n")
    cases = [c for c in a.functions if CASES[c][0] in ("soft_wpmi", "wpmi", "rank_reorder")]
    rows = (_million_row(a, case) for case in cases)
    print_table(["function", "s", "GB above the inputs", "GB of the whole process"], rows)


def _million_row(a: argparse.Namespace, case: str) -> list[str]:
    sizes = {"images": 2000, "concepts": 1000, "units": 1_000_000, "repeat": 1}
    result = start("fast", case, a, **sizes, million=True)
    memory = [f"{result[key] / 1e9:.2f}" for key in ("peak", "whole")]
    return [case, f"{result['seconds']:.1f}", *memory]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--images", type=int, default=5000)
    add("--concepts", type=int, default=20_000)
    add("--units", type=int, default=1000)
    add("--dims", type=int, default=512)
    names = f"comma-separated: {', '.join(CASES)}"
    add("--functions", type=lambda text: text.split(","), default=list(CASES), help=names)
    add("--plain-units", type=int, default=0, help="of the plain side; 0: as many as take seconds")
    add("--repeat", type=int, default=3)
    add("--memory-gb", type=float, default=2.0)
    add("--million", action="store_true", help="one million units as well")
    add("--no-flat", action="store_true", help="skip the growth in images")
    add("--no-table", action="store_true", help="skip the comparison")
    add("--worker", choices=["plain", "fast"], help=argparse.SUPPRESS)
    add("--case", choices=list(CASES), help=argparse.SUPPRESS)
    return parser


def main() -> None:
    parser = _parser()
    a = parser.parse_args()
    if a.worker:
        print(json.dumps(worker(a)))
        return
    wrong = [case for case in a.functions if case not in CASES]
    if wrong:
        parser.error(f"unknown function {wrong[0]!r}; valid: {', '.join(CASES)}")
    print(f"{machine()}\n")
    if not a.no_table:
        table(a)
    if not a.no_flat:
        flatness(a)
    if a.million:
        million(a)


if __name__ == "__main__":
    main()
