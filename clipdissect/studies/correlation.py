"""Correlations over all pairs of two sets of units, with tests and intervals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import special, stats

from clipdissect.evaluation import Resampling, interval

Pairs = Float[np.ndarray, "outputs inputs"]
Values = Float[np.ndarray, " pairs"]
Places = tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]  # outputs and inputs
Distribution = Float[np.ndarray, " resamples"]

_SMALLEST_P = 1e-290  # smaller p-values lose digits before they underflow
_BLOCK = 1 << 16  # numbers converted to float64 at a time
_BATCH = 64  # resampled sets, or rows of pairs, at a time


def pearson(x: Values, y: Values) -> float:
    """Return Pearson's r in float64; NaN if either side is constant."""
    x, y = x.ravel(), y.ravel()
    x0, y0 = float(x.mean(dtype=np.float64)), float(y.mean(dtype=np.float64))
    xx = yy = xy = 0.0
    for start in range(0, len(x), _BLOCK):  # a float64 copy of all pairs would be too large
        a = x[start : start + _BLOCK].astype(np.float64) - x0
        b = y[start : start + _BLOCK].astype(np.float64) - y0
        xx, yy, xy = xx + float(a @ a), yy + float(b @ b), xy + float(a @ b)
    return xy / (xx * yy) ** 0.5 if xx * yy > 0 else float("nan")


def log10_p(r: float, pairs: int) -> float | None:
    """Return log10 of Pearson r's two-sided p-value for independent pairs; None if undefined.

    With `x = 1 - r^2` and `a = (n - 2) / 2`, `p = I_x(a, 1/2)`. Below the smallest float its
    series `x^a * r / (a * B(a, 1/2)) * sum_n prod_j (a+1/2+j)/(a+1+j) * x` is summed in
    logarithms (Abramowitz & Stegun 26.5.4).
    """
    if pairs < 3 or not abs(r) < 1:
        return None
    a, x = (pairs - 2) / 2, 1 - r * r
    p = float(special.betainc(a, 0.5, x))
    if p > _SMALLEST_P:
        return float(np.log10(p))
    terms = np.arange(int(40 / (r * r)) + 10, dtype=np.float64)
    steps = np.log(x) + np.log1p(-0.5 / (a + 1 + terms))
    series = np.exp(np.concatenate([[0.0], np.cumsum(steps)])).sum()
    log_p = a * np.log(x) + np.log(abs(r)) - np.log(a) - special.betaln(a, 0.5) + np.log(series)
    return float(log_p / np.log(10))


def tested(x: Values, y: Values) -> dict[str, Any]:
    """Return `pairs`, `pearson_r` with `log10_p`, and `spearman_rho`, JSON-able."""
    r = pearson(x, y)
    defined = bool(np.isfinite(r))
    rho = pearson(stats.rankdata(x.ravel()), stats.rankdata(y.ravel())) if defined else r
    return {
        "pairs": x.size,
        "pearson_r": r if defined else None,
        "log10_p": log10_p(r, x.size),
        "spearman_rho": rho if np.isfinite(rho) else None,
    }


def two_way(outputs: int, inputs: int, resampling: Resampling) -> Iterator[tuple[Any, Any]]:
    """Yield counts of outputs and inputs in independently resampled sets (two-way bootstrap).

    Pairs that share a unit are dependent, so resampling pairs would be too optimistic; this is
    conservative for means (Owen, "The pigeonhole bootstrap", 2007).
    """
    other = Resampling(resampling.resamples, resampling.confidence, resampling.seed + 1)
    output_counts = _counts(outputs, resampling)
    input_counts = _counts(inputs, other)
    for start in range(0, resampling.resamples, _BATCH):
        size = range(min(_BATCH, resampling.resamples - start))
        rows = np.stack([next(output_counts) for _ in size])
        yield rows, np.stack([next(input_counts) for _ in size])


def pearson_interval(x: Pairs, y: Pairs, resampling: Resampling) -> dict[str, Any]:
    """Return the two-way bootstrap interval of Pearson's r, without copying full matrices."""
    # r does not depend on the offsets; subtracting the means avoids cancellation.
    x0, y0 = float(x.mean()), float(y.mean())
    parts = []
    for rows, columns in two_way(x.shape[0], x.shape[1], resampling):
        sums = np.zeros((5, len(rows)))
        for start in range(0, len(x), _BATCH):
            part = slice(start, start + _BATCH)
            a, b = x[part].astype(np.float64) - x0, y[part].astype(np.float64) - y0
            for i, products in enumerate((a, b, a * a, b * b, a * b)):
                sums[i] += ((rows[:, part] @ products) * columns).sum(1)
        parts.append(_r_of_sums(sums, rows.sum(1) * columns.sum(1)))
    return interval(np.concatenate(parts), resampling.confidence)


def chosen_interval(
    x: Values, y: Values, places: Places, shape: tuple[int, int], resampling: Resampling
) -> dict[str, Any]:
    """Return the interval of Pearson's r over a subset of the pairs, see `pearson_interval`."""
    a, b = x - x.mean(), y - y.mean()
    products = np.stack([a, b, a * a, b * b, a * b, np.ones_like(a)], 1).astype(np.float64)
    parts = []
    for rows, columns in two_way(*shape, resampling):
        *sums, weight = ((rows[:, places[0]] * columns[:, places[1]]) @ products).T
        parts.append(_r_of_sums(np.stack(sums), weight))
    return interval(np.concatenate(parts), resampling.confidence)


def running_means(
    values: Values,
    ends: Int[np.ndarray, " ends"],
    places: Places,
    shape: tuple[int, int],
    resampling: Resampling,
) -> list[dict[str, Any]]:
    """Return `k, value, low, high` of means of the first k of ordered pairs, JSON-able."""
    values = values.astype(np.float64)
    # The first k are determined anew in every resampled set.
    resampled = np.stack(
        [
            _first_means(row[places[0]] * column[places[1]], values, ends)
            for rows, columns in two_way(*shape, resampling)
            for row, column in zip(rows, columns, strict=True)
        ]
    )
    means = _first_means(np.ones(len(values)), values, ends)
    return [
        {"k": int(k), "value": float(mean), **interval(resampled[:, i], resampling.confidence)}
        for i, (k, mean) in enumerate(zip(ends, means, strict=True))
    ]


def _counts(size: int, resampling: Resampling) -> Iterator[Float[np.ndarray, " size"]]:
    for sets in resampling.rows(size):
        for rows in sets:
            yield np.bincount(rows, minlength=size).astype(np.float64)


def _first_means(
    counts: Values, values: Values, ends: Int[np.ndarray, " ends"]
) -> Float[np.ndarray, " ends"]:
    """Return means of the first k of ordered values, repeated by `counts`."""
    cumulative = counts.cumsum()
    last = np.searchsorted(cumulative, ends)
    sums = (counts * values).cumsum()[last]
    surplus = cumulative[last] - ends  # repetitions of the last value beyond k
    means: Float[np.ndarray, " ends"] = (sums - surplus * values[last]) / ends
    return means


def _r_of_sums(sums: Float[np.ndarray, "5 sets"], weight: Distribution) -> Distribution:
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y, xx, yy, xy = sums / weight
        r: Distribution = (xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y))
    return r
