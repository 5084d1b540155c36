"""Correlations over all pairs of two sets of units, with tests and intervals that suit pairs.

Pairs that share a unit aren't independent, so the p-value of a correlation over pairs, which takes
them for that, says little. The intervals here resample both sets of units (the two-way bootstrap),
and a permutation test shuffles one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import special, stats

from clipdissect.evaluation import Resampling, interval

Pairs = Float[np.ndarray, "outputs inputs"]
Distribution = Float[np.ndarray, " resamples"]

_SMALLEST = 1e-290  # below it, p-values lose digits before they underflow
_NUMBERS = 1 << 16
_AT_ONCE = 64  # resampled sets, or rows of pairs


def pearson(one: Float[np.ndarray, " pairs"], other: Float[np.ndarray, " pairs"]) -> float:
    """Pearson's r; NaN where a side never varies.

    Args:
        one, other: numbers of the same pairs.
    """
    x, y = one.ravel(), other.ravel()
    x0, y0 = float(x.mean(dtype=np.float64)), float(y.mean(dtype=np.float64))
    xx = yy = xy = 0.0
    for start in range(0, len(x), _NUMBERS):  # some at a time: pairs are many
        a = x[start : start + _NUMBERS].astype(np.float64) - x0
        b = y[start : start + _NUMBERS].astype(np.float64) - y0
        xx, yy, xy = xx + float(a @ a), yy + float(b @ b), xy + float(a @ b)
    return xy / (xx * yy) ** 0.5 if xx * yy > 0 else float("nan")


def spearman(one: Float[np.ndarray, " pairs"], other: Float[np.ndarray, " pairs"]) -> float:
    """Spearman's rho: Pearson's r of the ranks, equal numbers sharing theirs."""
    return pearson(stats.rankdata(one.ravel()), stats.rankdata(other.ravel()))


def log10_p(r: float, pairs: int) -> float | None:
    """log10 of the two-sided p-value of Pearson's r, for independent pairs.

    Exact also where p is below what a float can hold: with `x = 1 - r^2` and `a = (n - 2) / 2`,
    `p = I_x(a, 1/2)`, whose series `x^a * r / (a * B(a, 1/2)) * sum_n prod_j (a+1/2+j)/(a+1+j) * x`
    is summed in logarithms.

    Args:
        r: the correlation.
        pairs: how many it is of.

    Returns:
        None where there is no test: fewer than 3 pairs, r undefined or of size 1.

    Source: Abramowitz & Stegun 26.5.4 (incomplete beta function) for the t distribution of r.
    """
    if pairs < 3 or not abs(r) < 1:
        return None
    a, x = (pairs - 2) / 2, 1 - r * r
    p = float(special.betainc(a, 0.5, x))
    if p > _SMALLEST:
        return float(np.log10(p))
    terms = np.arange(int(40 / (r * r)) + 10, dtype=np.float64)
    steps = np.log(x) + np.log1p(-0.5 / (a + 1 + terms))
    series = np.exp(np.concatenate([[0.0], np.cumsum(steps)])).sum()
    found = a * np.log(x) + np.log(abs(r)) - np.log(a) - special.betaln(a, 0.5) + np.log(series)
    return float(found / np.log(10))


def tested(one: Float[np.ndarray, " pairs"], other: Float[np.ndarray, " pairs"]) -> dict[str, Any]:
    """JSON-able: `pairs`, `pearson_r` with `log10_p`, and `spearman_rho`."""
    r, pairs = pearson(one, other), one.size
    rho = spearman(one, other) if np.isfinite(r) else float("nan")
    return {"pairs": pairs, "pearson_r": _defined(r), "log10_p": log10_p(r, pairs),
            "spearman_rho": _defined(rho)}  # fmt: skip


def counts(things: int, how: Resampling) -> Iterator[Float[np.ndarray, "some things"]]:
    """How often each thing is in each resampled set, some sets at a time."""
    for rows in how.rows(things):
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            yield np.stack([np.bincount(row, minlength=things) for row in some]).astype(np.float64)


def two_way(outputs: int, inputs: int, how: Resampling) -> Iterator[tuple[Any, Any]]:
    """Counts of outputs and of inputs in resampled sets, drawn independently of each other.

    Source: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007: its intervals are
    never too narrow, up to rounding, for means over pairs.
    """
    other = Resampling(how.resamples, how.confidence, how.seed + 1)
    first = (row for some in counts(outputs, how) for row in some)
    second = (row for some in counts(inputs, other) for row in some)
    for start in range(0, how.resamples, _AT_ONCE):
        size = min(_AT_ONCE, how.resamples - start)
        yield (np.stack([next(first) for _ in range(size)]),
               np.stack([next(second) for _ in range(size)]))  # fmt: skip


def pearson_interval(one: Pairs, other: Pairs, how: Resampling) -> dict[str, Any]:
    """JSON-able `low` and `high` of Pearson's r over all pairs, by the two-way bootstrap.

    Args:
        one, other: `[outputs, inputs]`; neither is copied whole.
        how: resampling.
    """
    x0, y0 = float(one.mean()), float(other.mean())  # r stays, and nothing cancels
    drawn = []
    for rows, columns in two_way(one.shape[0], one.shape[1], how):
        sums = np.zeros((5, len(rows)))
        for start in range(0, len(one), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            x, y = one[part].astype(np.float64) - x0, other[part].astype(np.float64) - y0
            for i, products in enumerate((x, y, x * x, y * y, x * y)):
                sums[i] += ((rows[:, part] @ products) * columns).sum(1)
        drawn.append(_r_of_sums(sums, rows.sum(1) * columns.sum(1)))
    return interval(np.concatenate(drawn), how.confidence)


def chosen_interval(
    one: Float[np.ndarray, " pairs"], other: Float[np.ndarray, " pairs"],
    at: tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]], shape: tuple[int, int],
    how: Resampling,
) -> dict[str, Any]:  # fmt: skip
    """As `pearson_interval`, for some of the pairs.

    Args:
        one, other: numbers of the pairs.
        at: each pair's output and input.
        shape: how many outputs and inputs there are.
        how: resampling.
    """
    x, y = one - one.mean(), other - other.mean()
    products = np.stack([x, y, x * x, y * y, x * y, np.ones_like(x)], 1).astype(np.float64)
    drawn = []
    for rows, columns in two_way(*shape, how):
        weights = rows[:, at[0]] * columns[:, at[1]]
        *sums, weight = (weights @ products).T
        drawn.append(_r_of_sums(np.stack(sums), weight))
    return interval(np.concatenate(drawn), how.confidence)


def running_means(
    values: Float[np.ndarray, " pairs"], ends: Int[np.ndarray, " ends"],
    at: tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]], shape: tuple[int, int],
    how: Resampling,
) -> list[dict[str, Any]]:  # fmt: skip
    """Means of the first so many of ordered pairs, with two-way bootstrap intervals.

    Which pairs are the first is found in every resampled set anew: a pair that isn't drawn gives
    way to the next one, and one that is drawn twice counts twice.

    Args:
        values: of all pairs, in order.
        ends: how many pairs each mean is of.
        at: each pair's output and input.
        shape: how many outputs and inputs there are.
        how: resampling.

    Returns:
        JSON-able, one an end: `k`, `value`, `low`, `high`.
    """
    values = values.astype(np.float64)
    drawn = [
        _first_means(row[at[0]] * column[at[1]], values, ends)
        for rows, columns in two_way(*shape, how)
        for row, column in zip(rows, columns, strict=True)
    ]
    means, spread = _first_means(np.ones(len(values)), values, ends), np.stack(drawn)
    return [
        {"k": int(k), "value": float(mean), **interval(spread[:, i], how.confidence)}
        for i, (k, mean) in enumerate(zip(ends, means, strict=True))
    ]


def _first_means(
    counts: Float[np.ndarray, " pairs"], values: Float[np.ndarray, " pairs"],
    ends: Int[np.ndarray, " ends"],
) -> Float[np.ndarray, " ends"]:  # fmt: skip
    """Means of the first so many of ordered values, each there so many times."""
    upto = counts.cumsum()
    last = np.searchsorted(upto, ends)
    sums = (counts * values).cumsum()[last]
    beyond = upto[last] - ends  # of the last value, times that are too many
    means: Float[np.ndarray, " ends"] = (sums - beyond * values[last]) / ends
    return means


def _r_of_sums(sums: Float[np.ndarray, "5 sets"], weight: Distribution) -> Distribution:
    """Pearson's r of weighted sums of x, y, x^2, y^2 and xy."""
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y, xx, yy, xy = sums / weight
        found: Distribution = (xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y))
    return found


def _defined(value: float) -> float | None:
    return value if np.isfinite(value) else None
