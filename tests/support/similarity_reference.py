"""Slow float64 versions of the similarity functions, from the equations, unit by unit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

Array = NDArray[np.float64]


def top(q: Array, k: int) -> NDArray[np.int64]:
    """Numbers of the k largest, largest first, ties by number."""
    return np.array(sorted(range(len(q)), key=lambda i: (-q[i], i))[:k])


def log_softmax(P: Array, a: float) -> Array:
    return np.asarray(a * P - logsumexp(a * P, axis=1, keepdims=True))


def members(kind: str, values: Array, p_start: float, p_end: float) -> Array:
    k = len(values)
    if kind == "rank":
        return np.array([p_start - i / k * (p_start - p_end) for i in range(k)])
    if kind == "rank_linspace":
        return np.linspace(p_start, p_end, k)
    spread = values.std()
    z = (values - values.mean()) / spread if spread > 0 else np.zeros(k)
    return np.asarray(p_end + (p_start - p_end) * expit(z))


def marginal(joint: Array) -> Array:
    return np.asarray(logsumexp(joint, axis=0) - np.log(len(joint)))


def soft_wpmi(
    P: Array,
    q: Array,
    a: float = 10,
    lam: float = 1,
    top_k: int = 100,
    p_start: float = 0.998,
    p_end: float = 0.97,
    eps: float = 1e-7,
    membership: str = "rank",
) -> Array:
    s = np.exp(log_softmax(P, a))
    joint = []
    for unit in q.T:
        best = top(unit, top_k)
        p = members(membership, unit[best], p_start, p_end)[:, None]
        joint.append(np.log(1 - p + p * s[best] + eps).sum(0))
    return np.array(joint) - lam * marginal(np.array(joint))


def wpmi(
    P: Array, q: Array, a: float = 2, lam: float = 0.6, top_k: int = 28, eps: float = 1e-7
) -> Array:
    logs = log_softmax(P, a)
    if eps > 0:
        logs = np.log(np.exp(logs) + eps)
    joint = np.array([logs[top(unit, top_k)].sum(0) for unit in q.T])
    return joint - lam * marginal(joint)


def rank_reorder(
    P: Array,
    q: Array,
    p: float = 3,
    top_fraction: float = 0.05,
    scale_p: float = 0.5,
    random_baseline: bool = True,
    variant: str = "released",
) -> Array:
    count = int(np.floor(round(top_fraction * len(q), 6)))
    out = np.zeros((q.shape[1], P.shape[1]))
    for k, unit in enumerate(q.T):
        best = top(unit, count)
        values = unit[best]
        baseline = np.mean(np.abs(values[:, None] - values[None]) ** p)
        for m in range(P.shape[1]):
            order = top(P[best, m], count)
            errors = np.abs(values - values[order]) ** p
            if variant == "eq1":
                out[k, m] = -(errors.sum() ** (1 / p))
            elif baseline > 0 or not random_baseline:
                scale = max(P[best, m].mean(), 1e-3) ** scale_p
                out[k, m] = -errors.mean() / scale / (baseline if random_baseline else 1)
    return out


def correlations(P: Array, q: Array) -> Array:
    lengths = np.linalg.norm(q, axis=0)[:, None] * np.linalg.norm(P, axis=0)[None]
    return np.where(lengths > 0, q.T @ P / np.where(lengths > 0, lengths, 1), 0)


def without_mean(x: Array) -> Array:
    """Centred columns; exactly zero where they are constant but for rounding."""
    moved = x - x.mean(0)
    return np.where(np.linalg.norm(moved, axis=0) > 1e-6 * np.linalg.norm(x, axis=0), moved, 0)


def cosine(P: Array, q: Array, center: bool = False) -> Array:
    return correlations(*map(without_mean, (P, q))) if center else correlations(P, q)


def cosine_cubed(P: Array, q: Array, min_norm: float = 1e-3) -> Array:
    P, q = (P - P.mean(0)) ** 3, (q - q.mean(0)) ** 3
    lengths = [np.maximum(np.linalg.norm(x, axis=0), min_norm) for x in (q, P)]
    return np.asarray(q.T @ P / lengths[0][:, None] / lengths[1])


def lp(P: Array, q: Array, p: float = 2, standardize: bool = True) -> Array:
    if standardize:
        P, q = map(without_mean, (P, q))
        P, q = (x / np.where(x.std(0) > 0, x.std(0), 1) for x in (P, q))
    distance = (np.abs(P[:, None, :] - q[:, :, None]) ** p).sum(0) ** (1 / p)
    return np.asarray(-distance)
