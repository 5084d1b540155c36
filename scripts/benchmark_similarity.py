"""Time and memory of the similarity functions against plain per-unit implementations.

    python scripts/benchmark_similarity.py                 # the table, then flatness in images
    python scripts/benchmark_similarity.py --million       # one million units as well
    python scripts/benchmark_similarity.py --functions soft_wpmi --images 10000 --no-flat

Every measurement is a process of its own: inputs are made, a small run warms up threads and
compiled kernels, and then time and the rise of resident memory above what the inputs hold are
taken. The plain side works one unit at a time, on `--plain-units` units where all would take too
long; its time per unit is then scaled to `--units`, and the table says so.
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
from pathlib import Path
from typing import Any

import torch
from benchmark_similarity_plain import Plain
from torch import Tensor

from clipdissect import similarity
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


def inputs(images: int, concepts: int, units: int, dims: int) -> tuple[ConceptActivations, Tensor]:
    """Embeddings with CLIP's spread of cosines, about 0.2 +- 0.04, and normal activations."""
    torch.manual_seed(0)
    rows = []
    for count in (images, concepts):
        embeds = torch.randn(count, dims).mul_(dims**-0.5)
        embeds[:, 0] += 0.5
        rows.append(torch.nn.functional.normalize(embeds, dim=1))
    return ConceptActivations(*rows), torch.randn(images, units)


def kept_inputs(images: int, units: int, k: int) -> TopActivations:
    """Top images of many units, made in parts that never hold all activations."""
    torch.manual_seed(0)
    values, indices = torch.empty(k, units), torch.empty(k, units, dtype=torch.int64)
    for start in range(0, units, 10_000):
        part = top_images(torch.randn(images, min(10_000, units - start)), k)
        values[:, start : start + 10_000] = part.values
        indices[:, start : start + 10_000] = part.indices
    return TopActivations(values, indices, images)


def memory(field: str) -> int:
    """Bytes of a field of the process's status (VmRSS now, VmHWM highest)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field}: peak memory is measured on Linux only")


def measured(work: Callable[[], Any], repeat: int) -> tuple[Any, float, int]:
    """Result, best time, and highest rise of resident memory of some work."""
    Path("/proc/self/clear_refs").write_text("5")  # start the highest anew from the present
    before, best, result = memory("VmRSS"), float("inf"), None
    for _ in range(repeat):
        result = None
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return result, best, memory("VmHWM") - before


def run_plain(a: argparse.Namespace, factors: ConceptActivations, q: Tensor) -> dict[str, Any]:
    """The plain side, and how far the streaming side is from it on the same units."""
    name, parameters = CASES[a.case]
    count = min(a.units, a.plain_units or PLAIN_UNITS.get(name, a.units))
    seconds: list[float] = []

    def work() -> Tensor:
        start = time.perf_counter()
        plain = Plain(name, parameters, factors)
        middle = time.perf_counter()
        # Filled in place: a list of results among freed temporaries tears the heap to pieces.
        scores = torch.empty(count, a.concepts)
        for u in range(count):
            scores[u] = plain.unit(q[:, u])
        scores = plain.finish(scores)
        seconds[:] = [middle - start, time.perf_counter() - middle]
        return scores

    scores, _, peak = measured(work, 1)
    best = similarity.build(name, **parameters).top(factors, q[:, :count].contiguous(), BEST)
    difference = (scores.gather(1, best.concepts) - best.scores).abs().max()
    same = (scores.argmax(1) == best.concepts[:, 0]).sum()
    each = seconds[1] / count
    return {
        "seconds": seconds[0] + each * a.units,
        "each": each,
        "peak": peak,
        "count": count,
        "difference": float(difference),
        "same": int(same),
    }


def run_fast(a: argparse.Namespace, factors: ConceptActivations, q: Any) -> dict[str, Any]:
    """The streaming side."""
    name, parameters = CASES[a.case]
    function = similarity.build(name, **parameters, memory_gb=a.memory_gb)
    _, seconds, peak = measured(lambda: function.top(factors, q, BEST), a.repeat)
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak": peak, "whole": whole}


def worker(a: argparse.Namespace) -> dict[str, Any]:
    """One measurement, in this process."""
    name, parameters = CASES[a.case]
    small, few = inputs(2000, 600, 8, a.dims)
    similarity.build(name, **parameters).top(small, few, BEST)
    Plain(name, parameters, small).unit(few[:, 0])
    if a.million:
        factors, _ = inputs(a.images, a.concepts, 1, a.dims)
        return run_fast(a, factors, kept_inputs(a.images, a.units, 100))
    factors, q = inputs(a.images, a.concepts, a.units, a.dims)
    return run_plain(a, factors, q) if a.worker == "plain" else run_fast(a, factors, q)


def start(side: str, case: str, a: argparse.Namespace, **changed: Any) -> dict[str, Any]:
    """One measurement, in a process of its own."""
    flags = {**vars(a), **changed, "worker": side, "case": case}
    command = [sys.executable, __file__]
    for key in (
        "worker",
        "case",
        "images",
        "concepts",
        "units",
        "dims",
        "repeat",
        "plain_units",
        "memory_gb",
    ):
        command += [f"--{key.replace('_', '-')}", str(flags[key])]
    command += ["--million"] if flags["million"] else []
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def machine() -> str:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    try:
        import numba

        compiler = numba.__version__
    except ImportError:
        compiler = "none"
    load = " ".join(f"{x:.2f}" for x in os.getloadavg())
    return (
        f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads; Python {platform.python_version()}, torch "
        f"{torch.__version__}, numba {compiler} (kernels: {kernels.backend()}); "
        f"{datetime.date.today()}; load before the run {load}"
    )


def table(a: argparse.Namespace) -> None:
    """Print one row for each function."""
    print(
        f"{a.images} images, {a.concepts} concepts, {a.units} units, {a.dims} dims, best of "
        f"{a.repeat}; memory in MB above the inputs; difference over the {BEST} best concepts\n"
    )
    heads = ["function", "plain s", "ms a unit", "streaming s", "ratio", "plain MB"]
    heads += ["streaming MB", "part", "largest difference", "same best", "plain units"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for case in a.functions:
        plain, fast = start("plain", case, a, million=False), start("fast", case, a, million=False)
        count = plain["count"]
        measured_on = f"{count}" if count == a.units else f"{count}, scaled"
        print(
            f"| {case} | {plain['seconds']:.2f} | {1e3 * plain['each']:.2f} "
            f"| {fast['seconds']:.3f} | {plain['seconds'] / fast['seconds']:.1f} "
            f"| {plain['peak'] / 1e6:.0f} | {fast['peak'] / 1e6:.0f} "
            f"| 1/{plain['peak'] / max(fast['peak'], 1):.1f} | {plain['difference']:.1e} "
            f"| {plain['same']}/{count} | {measured_on} |",
            flush=True,
        )


def flatness(a: argparse.Namespace) -> None:
    """Print peak memory as the number of images grows."""
    counts = (5_000, 20_000, 50_000)
    print(f"\nPeak MB above the inputs, {a.concepts} concepts, {a.units} units:\n")
    print("| function | " + " | ".join(f"{n} images" for n in counts) + " |")
    print("|---" * (1 + len(counts)) + "|")
    for case in a.functions:
        peaks = [start("fast", case, a, images=n, repeat=1, million=False)["peak"] for n in counts]
        print(f"| {case} | " + " | ".join(f"{p / 1e6:.0f}" for p in peaks) + " |", flush=True)


def million(a: argparse.Namespace) -> None:
    """Print time and memory for one million units, of which the top images were kept."""
    sizes = {"images": 2000, "concepts": 1000, "units": 1_000_000, "repeat": 1}
    print("\n1,000,000 units, 1000 concepts, 2000 images, the top 100 images of each unit given:\n")
    print("| function | s | GB above the inputs | GB of the whole process |\n|---|---|---|---|")
    for case in a.functions:
        if CASES[case][0] in ("soft_wpmi", "wpmi", "rank_reorder"):
            r = start("fast", case, a, **sizes, million=True)
            sizes_gb = f"{r['peak'] / 1e9:.2f} | {r['whole'] / 1e9:.2f}"
            print(f"| {case} | {r['seconds']:.1f} | {sizes_gb} |", flush=True)


def main() -> None:
    """Read the flags and print the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--concepts", type=int, default=20_000)
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument(
        "--functions",
        type=lambda x: x.split(","),
        default=list(CASES),
        help="comma-separated: " + ", ".join(CASES),
    )
    parser.add_argument(
        "--plain-units",
        type=int,
        default=0,
        help="units on the plain side; 0: a number that takes seconds",
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--memory-gb", type=float, default=2.0)
    parser.add_argument("--million", action="store_true", help="one million units as well")
    parser.add_argument("--no-flat", action="store_true", help="skip the growth in images")
    parser.add_argument("--no-table", action="store_true", help="skip the comparison")
    parser.add_argument("--worker", choices=["plain", "fast"], help=argparse.SUPPRESS)
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
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
