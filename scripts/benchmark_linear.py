"""Time of method=linear's fits against scikit-learn's ElasticNet and least squares per unit.

    python scripts/benchmark_linear.py                      # 50,000 images, 2,048 units
    python scripts/benchmark_linear.py --images 5000 --units 500

Both sides fit the same random numbers, by as many threads as torch takes. The plain side fits a
sample of the units, one by one, and its time is scaled; it checks that both choose the same sums.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import ElasticNet
from torch import Tensor

from clipdissect.app.runtime.microbenchmarks import memory_of, processor, reset_peak_memory
from clipdissect.method.linear_sums.elastic_net import Penalty
from clipdissect.method.linear_sums.fit import FittedSums, SumFitter
from clipdissect.method.linear_sums.greedy import Search

Array = Float[np.ndarray, "images columns"]
PENALTY, SEARCH = Penalty(0.05, 0.99), Search(length=10, width=10, tolerance=0.02)


def inputs(a: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Return values of concepts, a tenth of them unions of others, and units that are sums."""
    generator = torch.Generator().manual_seed(0)
    groups = max(1, a.concepts // 10)
    shares = torch.rand(a.concepts - groups, generator=generator).square() * 0.05
    single = torch.rand(a.images, len(shares), generator=generator) < shares
    several = torch.stack([single[:, g::groups].any(1) for g in range(groups)], 1)
    values = torch.cat([single, several], 1).float()
    values = (values + 0.1 * torch.rand(values.shape, generator=generator)).clamp_(max=1.0)
    activations = torch.empty(a.images, a.units)
    for unit in range(a.units):
        chosen = torch.randperm(a.concepts, generator=generator)[:6]
        weights = torch.rand(6, generator=generator) + 0.5
        noise = 0.3 * torch.randn(a.images, generator=generator)
        activations[:, unit] = (values[:, chosen] @ weights + noise).relu_()
    return values, activations


def plain_sum(
    train: tuple[Array, Array], validation: tuple[Array, Array]
) -> tuple[list[int], float]:
    """Fit one unit's sum as the paper describes it; return its concepts and correlation."""
    (c, a), (c_validation, a_validation) = train, validation
    standardised = (c - c.mean(0)) / c.std(0)
    net = ElasticNet(alpha=PENALTY.lam, l1_ratio=PENALTY.alpha, tol=1e-6, max_iter=10000)
    net.fit(standardised, (a - a.mean()) / a.std())
    order = np.argsort(-net.coef_, kind="stable").tolist()
    chosen: list[int] = []
    dropped: set[int] = set()
    best = 0.0
    while len(chosen) < SEARCH.length:
        tried = [n for n in order if n not in chosen and n not in dropped][: SEARCH.width]
        found = {}
        for n in tried:
            columns = [*chosen, n]
            ones = np.ones((len(c), 1), dtype=c.dtype)
            weights = np.linalg.lstsq(np.hstack([c[:, columns], ones]), a, rcond=None)[0]
            predicted = c_validation[:, columns] @ weights[:-1]
            correlation = np.corrcoef(predicted, a_validation)[0, 1]
            if chosen and correlation - best < SEARCH.tolerance:
                dropped.add(n)
            else:
                found[n] = correlation
        if not found:
            break
        chosen.append(max(found, key=lambda n: found[n]))
        best = found[chosen[-1]]
    return chosen, best


def fast(values: Tensor, activations: Tensor, train: Tensor, validation: Tensor) -> FittedSums:
    return SumFitter(values, train, validation, PENALTY, SEARCH).fit(activations)


def compare(fitted: FittedSums, units: Sequence[int], sums: list[tuple[list[int], float]]) -> None:
    """Print how many sums are equal, and the largest difference of their correlations."""
    equal, differences = 0, []
    for unit, (concepts, correlation) in zip(units, sums, strict=True):
        found = [n for n in fitted.concepts[unit].tolist() if n >= 0]
        if found == concepts:
            equal += 1
            differences.append(abs(float(fitted.correlation[unit]) - correlation))
    largest = max(differences, default=float("nan"))
    print(
        f"equal sums: {equal} of {len(units)}; their correlations differ by at most {largest:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("images", 50000), ("concepts", 1000), ("units", 2048), ("sample", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    fast(
        *inputs(argparse.Namespace(images=100, concepts=20, units=2)), *torch.arange(100).split(80)
    )
    values, activations = inputs(a)
    order = torch.randperm(a.images, generator=torch.Generator().manual_seed(1))
    validation, train = order[: a.images // 8], order[a.images // 8 :]
    reset_peak_memory()
    before, start = memory_of("VmRSS"), time.perf_counter()
    fitted = fast(values, activations, train, validation)
    seconds = time.perf_counter() - start
    memory = memory_of("VmHWM") - before
    print(
        f"{a.images} images, {a.concepts} concepts, {a.units} units; {processor()}, "
        f"{torch.get_num_threads()} threads"
    )
    lengths = (fitted.concepts >= 0).sum(1).double()
    print(f"concepts per sum: {float(lengths.mean()):.2f}, at most {int(lengths.max())}")
    print(f"all units: {seconds:.1f} s, {memory / 1e9:.2f} GB more memory")
    units = np.linspace(0, a.units - 1, a.sample).round().astype(int).tolist()
    start, sums = time.perf_counter(), []
    for unit in units:
        q = activations[:, unit]
        train_part, validation_part = (
            (values[rows].numpy(), q[rows].numpy()) for rows in (train, validation)
        )
        sums.append(plain_sum(train_part, validation_part))
    each = (time.perf_counter() - start) / len(units)
    of_all = each * a.units
    print(f"per unit: {each:.1f} s each, {of_all:.0f} s for all: ratio {of_all / seconds:.0f}")
    compare(fitted, units, sums)


if __name__ == "__main__":
    main()
