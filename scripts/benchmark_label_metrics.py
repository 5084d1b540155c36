"""Time of all label metrics, against scipy and scikit-learn pair by pair in the same process.

    python scripts/benchmark_label_metrics.py    # 3904 units, 1200 concepts, 50,000 images
    python scripts/benchmark_label_metrics.py --units 256 --density 0.1

Random activations and binary labels; `--density` is the share of images that have a label. The
plain side computes every metric of a few pairs, and its time is scaled to all of them.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn import metrics as sk

from clipdissect.app.runtime.microbenchmarks import memory_of, processor, reset_peak_memory
from clipdissect.scores.label_metrics import ALPHA, METRICS, label_metrics

Column = np.ndarray
# Of activations a, concept c, active images A; where c is binary it is also the truth.
PLAIN: dict[str, Callable[[Column, Column, Column], float]] = {
    "recall": lambda a, c, A: sk.recall_score(A, c),
    "precision": lambda a, c, A: sk.precision_score(A, c),
    "f1": lambda a, c, A: sk.f1_score(A, c),
    "iou": lambda a, c, A: sk.jaccard_score(A, c),
    "accuracy": lambda a, c, A: sk.accuracy_score(A, c),
    "balanced_accuracy": lambda a, c, A: sk.balanced_accuracy_score(A, c),
    "inverse_balanced_accuracy": lambda a, c, A: sk.balanced_accuracy_score(c, A),
    "auc": lambda a, c, A: sk.roc_auc_score(A, c),
    "inverse_auc": lambda a, c, A: sk.roc_auc_score(c, a),
    "correlation": lambda a, c, A: pearsonr(a, c)[0],
    "spearman": lambda a, c, A: spearmanr(a, c)[0],
    "cosine": lambda a, c, A: a @ c / math.sqrt((a @ a) * c.sum()),
    "wpmi": lambda a, c, A: np.log(np.maximum(c, 1e-8))[A].mean() - math.log(c.mean()),
    "mad": lambda a, c, A: a[c].mean() - a[~c].mean(),
    "auprc": lambda a, c, A: sk.average_precision_score(A, c),
    "inverse_auprc": lambda a, c, A: sk.average_precision_score(c, a),
}


def plain(a: torch.Tensor, c: torch.Tensor, pairs: int) -> tuple[float, dict[str, list[float]]]:
    """Return the seconds per pair and the metrics of unit and concept i."""
    values: dict[str, list[float]] = {name: [] for name in PLAIN}
    start = time.perf_counter()
    for i in range(pairs):
        column, labels = a[:, i].double().numpy(), c[:, i].numpy()
        active = (
            column
            >= np.partition(column, -math.ceil(ALPHA * len(column)))[
                -math.ceil(ALPHA * len(column))
            ]
        )
        for name, metric in PLAIN.items():
            values[name].append(float(metric(column, labels, active)))
    return (time.perf_counter() - start) / pairs, values


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {"units": 3904, "concepts": 1200, "images": 50_000, "pairs": 20}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--density", type=float, default=0.01)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(arguments.images, arguments.units, generator=generator)
    c = torch.empty(arguments.images, arguments.concepts, dtype=torch.bool)
    for column in c.T:
        column.copy_(torch.rand(arguments.images, generator=generator) < arguments.density)
    label_metrics(a[:200, :2], c[:200, :2])  # compiles
    reset_peak_memory()
    before, start, cpu = memory_of("VmRSS"), time.perf_counter(), time.process_time()
    computed = label_metrics(a, c)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = memory_of("VmHWM") - before
    per_pair, expected = plain(a, c, arguments.pairs)
    differences = [
        abs(float(computed[name][i, i]) - value)
        for name, values in expected.items()
        for i, value in enumerate(values)
    ]
    whole = per_pair * arguments.units * arguments.concepts
    facts = {
        **vars(arguments),
        "metrics": len(METRICS),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),  # of all threads
        "peak_gb": round(peak / 1e9, 2),
        "plain_metrics": len(PLAIN),
        "plain_seconds": round(whole),
        "ratio": round(whole / seconds),
        "largest_difference": float(f"{max(differences):.1g}"),
        "threads": torch.get_num_threads(),
        "processor": processor(),
    }
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
