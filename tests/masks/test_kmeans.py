"""K-means of numbers: exact where it says so, and as good as scikit-learn's elsewhere."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from clipdissect.masks.kmeans import CELLS, clusters


def within(ordered: np.ndarray, starts: np.ndarray) -> float:
    """Return the sum of squares within clusters, scikit-learn's `inertia_`."""
    parts = [ordered[a:b].astype(np.float64) for a, b in itertools.pairwise(starts.tolist())]
    return float(sum(((part - part.mean()) ** 2).sum() for part in parts))


def test_clusters_that_anyone_sees() -> None:
    numbers = np.array([0, 0, 1, 10, 11, 50, 50, 90, 91, 92], dtype=np.float32)
    assert clusters(numbers, 4).tolist() == [0, 3, 5, 7, 10]
    assert clusters(numbers, 1).tolist() == [0, 10]
    assert clusters(np.float32([3, 3, 3]), 5).tolist() == [0, 3]
    assert clusters(np.float32([1, 1, 2]), 5).tolist() == [0, 2, 3]  # two distinct numbers
    assert clusters(np.float32([]), 5).tolist() == [0]


@given(st.lists(st.integers(-30, 30), min_size=1, max_size=12), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_no_partition_is_better(numbers: list[int], count: int) -> None:
    ordered = np.sort(np.array(numbers, dtype=np.float32))
    starts = clusters(ordered, count)
    assert len(starts) - 1 == min(count, len(set(numbers)))
    everything = itertools.combinations(range(1, len(numbers)), len(starts) - 2)
    best = min(within(ordered, np.array([0, *cuts, len(numbers)])) for cuts in everything)
    assert within(ordered, starts) == pytest.approx(best, abs=1e-9)
    for cut in starts[1:-1]:
        assert ordered[cut - 1] < ordered[cut]  # equal numbers are together


DRAWS = {
    "normal": lambda r: r.normal(size=6000),
    "relu6": lambda r: np.clip(r.normal(2, 3, size=6000), 0, 6),
    "skewed": lambda r: r.lognormal(0, 1.5, size=6000),
    "outliers": lambda r: r.standard_cauchy(size=3000),
    "far from zero": lambda r: 300 + r.normal(size=3000),
    "few": lambda r: r.exponential(size=CELLS // 2),
}


@pytest.mark.parametrize("name", DRAWS)
def test_it_is_as_good_as_scikit_learns(name: str) -> None:
    ordered = np.sort(DRAWS[name](np.random.default_rng(0)).astype(np.float32))
    theirs = KMeans(5, n_init=3, random_state=0).fit(ordered[:, None].astype(np.float64))
    assert within(ordered, clusters(ordered, 5)) <= 1.0005 * theirs.inertia_


def test_it_is_deterministic_and_shifts_with_the_numbers() -> None:
    ordered = np.sort(np.random.default_rng(1).gamma(2, size=4000)).astype(np.float32)
    starts = clusters(ordered, 5)
    assert (clusters(ordered, 5) == starts).all()
    assert (clusters(ordered * 1024, 5) == starts).all()  # exact in floating point
