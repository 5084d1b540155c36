"""Correlate weights between units with the similarity of descriptions (Sec. 5, Fig. 6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import special, stats
from torch import Tensor, nn

from clipdissect.capture.hooks import find_layers
from clipdissect.errors import DissectError
from clipdissect.evaluation import Resampling, interval
from clipdissect.evaluation.vectors import Vectors
from clipdissect.models.layer_patterns import kind_of
from clipdissect.studies.numbers import check_least
from clipdissect.targets import Target
from clipdissect.utils.progress import progress

Pairs = Float[np.ndarray, "outputs inputs"]
Values = Float[np.ndarray, " pairs"]
Places = tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]  # outputs and inputs
Distribution = Float[np.ndarray, " resamples"]

_SMALLEST_P = 1e-290  # smaller p-values lose digits before they underflow
_BLOCK = 1 << 16  # numbers converted to float64 at a time
_BATCH = 64  # resampled sets, or rows of pairs, at a time


@dataclass(frozen=True, kw_only=True)
class WeightSimilarity:
    """Settings of the study.

    Args:
        layer: whose units are described; by default the target's last layer before `into`.
        into: linear layer fed by `layer`, units are classes; by default the class layer.
        top_pairs: number of the largest weights, for a second correlation.
        permutations: random permutations of the descriptions over the input units.
        panels: largest weights in the figure of images; 0 disables it.
        panel_images: top images per unit.
    """

    layer: str | None = None
    into: str | None = None
    top_pairs: int = 50_000
    permutations: int = 1000
    panels: int = 6
    panel_images: int = 5

    def __post_init__(self) -> None:
        check_least(self, top_pairs=3, permutations=20, panels=0, panel_images=1)


def linear_weights(model: nn.Module, into: str) -> Float[np.ndarray, "outputs inputs"]:
    """Return the weights of a linear layer, or of a 1x1 convolution."""
    module = find_layers(model, [into])[into]
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim not in (2, 4):
        raise DissectError(f"{into} is a {kind_of(module)}; study.into must be a linear layer")
    if weight.ndim == 4 and (weight.shape[2:] != (1, 1) or getattr(module, "groups", 1) > 1):
        raise DissectError(
            f"{into} has a kernel over several positions; study.into must be a linear layer"
        )
    return weight.detach().float().cpu().reshape(weight.shape[0], -1).numpy()


def feeding_layer(target: Target, into: str, layer: str | None) -> str:
    """Return `layer`, or by default the target's last layer other than `into`."""
    if layer is not None:
        find_layers(target.model, [layer])
        return layer
    others = [name for name in target.layers if name != into]
    if not others:
        raise DissectError(f"the layer that feeds {into} is unknown: set study.layer")
    return others[-1]


def check_width(weights: Pairs, units: int, layer: str, into: str) -> None:
    """Raise a DissectError unless a layer has as many units as the next one has inputs."""
    if weights.shape[1] != units:
        raise DissectError(
            f"{into} takes {weights.shape[1]} inputs, but {layer} has {units} described units: set "
            f"study.layer to the layer that feeds it"
        )


def linearity(
    weights: Pairs, q: Float[np.ndarray, "images inputs"], out: Float[np.ndarray, "images outputs"]
) -> float:
    """Return the share of the outputs' variance that weights and inputs explain (R^2)."""
    residual = out - q @ weights.T
    residual = residual - residual.mean(0)  # the bias
    centred = out - out.mean(0)
    return float(1 - (residual**2).sum() / (centred**2).sum())


@dataclass(frozen=True, eq=False)
class Weights:
    """Weights `[classes, described units]`, with the units' numbers and descriptions."""

    table: Pairs
    units: np.ndarray
    labels: tuple[str, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, weights: Pairs, descriptions: Sequence[str], classes: Sequence[str]) -> Weights:
        """Select the units with a description."""
        if len(classes) != len(weights):
            raise DissectError(f"{len(weights)} outputs, but {len(classes)} class names")
        units = np.array([i for i, text in enumerate(descriptions) if text], dtype=int)
        if len(units) < 3:
            raise DissectError(f"only {len(units)} units are described")
        labels = tuple(descriptions[i] for i in units)
        return cls(np.ascontiguousarray(weights[:, units]), units, labels, tuple(classes))

    def largest(self, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and columns of the largest weights, largest first."""
        order = np.argsort(-self.table, axis=None, kind="stable")[:count]
        rows, columns = np.divmod(order, self.table.shape[1])
        return rows, columns


def similarities(weights: Weights, vectors: Vectors) -> Float[np.ndarray, "classes units"]:
    """Return the cosine of each class name and each unit's description, float32."""
    classes, labels = (
        vectors.of(texts).astype(np.float32) for texts in (weights.classes, weights.labels)
    )
    cosines: Float[np.ndarray, "classes units"] = classes @ labels.T
    return cosines


def measured(
    weights: Weights, vectors: Vectors, study: WeightSimilarity, resampling: Resampling
) -> dict[str, Any]:
    """Return the correlations, the means of Fig. 6b, and the permutation control, JSON-able."""
    cosines = similarities(weights, vectors)
    table = weights.table
    places = weights.largest()
    count = min(study.top_pairs, table.size)
    top = places[0][:count], places[1][:count]
    top_interval = chosen_interval(table[top], cosines[top], top, table.shape, resampling)
    # 1, 2, 4, ... and all pairs
    ends = np.unique([*2 ** np.arange(int(np.log2(table.size)) + 1), table.size])
    return {
        "all_pairs": tested(table, cosines)
        | {"interval": pearson_interval(table, cosines, resampling)},
        "top_pairs": tested(table[top], cosines[top]) | {"interval": top_interval},
        "mean_similarity": float(cosines.mean()),
        "by_top_k": running_means(cosines[places], ends, places, table.shape, resampling),
        "permutation": permuted(weights, vectors, study.permutations, resampling),
        "best_of_unit": tested(table.max(0), cosines.max(0)),
    }


def permuted(
    weights: Weights, vectors: Vectors, permutations: int, resampling: Resampling
) -> dict[str, Any]:
    """Return r over all pairs with the descriptions permuted over the input units, JSON-able.

    Uses `sum_jk W_jk S_jp(k) = sum_k (W.T E)_k . D_p(k)`, E and D the embeddings of class names
    and descriptions, to avoid a matrix of pairs. `p` is the share of permutations, with the
    identity, whose |r| is at least the real one.
    """
    names, labels = vectors.of(weights.classes), vectors.of(weights.labels)
    size = weights.table.size
    projected = weights.table.T @ names - weights.table.mean(dtype=np.float64) * names.sum(0)
    mean = names.mean(0) @ labels.mean(0)
    spread = ((names.T @ names) * (labels.T @ labels)).sum() - size * mean**2
    scale = np.sqrt(size * float(weights.table.var(dtype=np.float64)) * spread)
    generator = np.random.default_rng(resampling.seed)
    real = float((projected * labels).sum() / scale)
    resampled = np.empty(permutations)
    for i in progress(range(permutations), "permutations"):
        order = generator.permutation(len(labels))
        resampled[i] = (projected * labels[order]).sum() / scale
    extreme = int((np.abs(resampled) >= abs(real)).sum())
    return {
        "permutations": permutations,
        "mean_r": float(resampled.mean()),
        **interval(resampled, resampling.confidence),
        "p": (1 + extreme) / (1 + permutations),
    }


def largest_pairs(weights: Weights, cosines: Mapping[str, Vectors], count: int) -> pd.DataFrame:
    """Return `unit, description, class_unit, class, weight` of the largest weights, and cosines."""
    rows, columns = weights.largest(count)
    labels = [weights.labels[i] for i in columns]
    classes = [weights.classes[i] for i in rows]
    values = {
        "unit": weights.units[columns],
        "description": labels,
        "class_unit": rows,
        "class": classes,
        "weight": weights.table[rows, columns],
    }
    values |= {f"{name}_cos": vectors.cosines(labels, classes) for name, vectors in cosines.items()}
    table: pd.DataFrame = pd.DataFrame(values)
    return table


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
    for start in progress(range(0, resampling.resamples, _BATCH), "resampled sets", "batch"):
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
    for sets in resampling.rows(size, bar=False):  # two of them run side by side
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
