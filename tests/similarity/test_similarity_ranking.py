"""The top images of every unit: order, ties, merging."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdissect.errors import DissectError
from clipdissect.similarity import TopActivations, merge, top_images
from clipdissect.similarity.kernels.plain import from_sort_keys, sort_keys
from clipdissect.similarity.ranking import as_top, concat_layers

# Few distinct values: most draws hold ties.
tied = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed))


def draw(rng: np.random.Generator, images: int, units: int) -> torch.Tensor:
    return torch.tensor(rng.integers(-2, 3, (images, units)) / 4, dtype=torch.float32)


def slow(q: torch.Tensor, k: int) -> torch.Tensor:
    return torch.argsort(-(q + 0.0), dim=0, stable=True)[:k]


def test_literal() -> None:
    q = torch.tensor([[0.5, -1.0], [2.0, -3.0], [0.5, -1.0], [1.0, -2.0]])
    top = top_images(q, 3)
    assert top.indices.tolist() == [[1, 0], [3, 2], [0, 3]]
    assert top.values.tolist() == [[2.0, -1.0], [1.0, -1.0], [0.5, -2.0]]
    assert top.images == 4


def test_zeros_of_both_signs_are_equal() -> None:
    q = torch.tensor([[-0.0], [0.0], [-0.0], [0.0]])
    assert top_images(q, 4).indices[:, 0].tolist() == [0, 1, 2, 3]


def test_keys_order_every_float() -> None:
    values = torch.tensor([-3.4e38, -1.0, -1e-45, 0.0, 1e-45, 1e-38, 1.0, 3.4e38])
    keys = sort_keys(values, torch.arange(8))
    assert keys.tolist() == sorted(keys.tolist())
    back, numbers = from_sort_keys(keys)
    assert torch.equal(back, values)
    assert numbers.tolist() == list(range(8))


@settings(deadline=None)
@given(tied, st.integers(1, 40), st.integers(1, 5), st.data())
def test_equals_stable_sort(
    rng: np.random.Generator, images: int, units: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, images))
    q = draw(rng, images, units)
    top = top_images(q, k)
    assert torch.equal(top.indices, slow(q, k))
    assert torch.equal(top.values, q.gather(0, top.indices))


@settings(deadline=None)
@given(tied, st.lists(st.integers(1, 12), min_size=3, max_size=3), st.integers(1, 40))
def test_merge_is_associative_and_equals_the_whole(
    rng: np.random.Generator, sizes: list[int], k: int
) -> None:
    q = draw(rng, sum(sizes), 3)
    starts = np.cumsum([0, *sizes])
    parts = [top_images(q[a:b], min(k, b - a), first=a) for a, b in pairwise(starts.tolist())]
    a, b, c = parts
    left, right = merge(merge(a, b, k), c, k), merge(a, merge(c, b, k), k)
    whole = top_images(q, min(k, len(q)))
    for merged in (left, right, merge(merge(a, b), c, k)):
        assert torch.equal(merged.indices, whole.indices)
        assert torch.equal(merged.values, whole.values)
        assert merged.images == len(q)


def test_merge_keeps_only_what_the_parts_determine() -> None:
    a = top_images(torch.tensor([[5.0], [4.0], [3.0]]), 1)
    b = top_images(torch.tensor([[1.0], [0.0]]), 2, first=3)
    # The second best of the whole is in a's dropped part, so it can't be known.
    assert merge(a, b).indices.tolist() == [[0]]


def test_float16_keeps_its_order() -> None:
    q = torch.randn(50, 4).half()
    assert torch.equal(top_images(q, 9).indices, slow(q.float(), 9))


def test_more_units_than_one_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(30, 17)
    whole = top_images(q, 7)
    monkeypatch.setattr("clipdissect.similarity.ranking._NUMBERS_AT_ONCE", 30 * 5)
    assert torch.equal(top_images(q, 7).indices, whole.indices)


@pytest.mark.parametrize(
    ("q", "k", "message"),
    [
        (torch.zeros(20, 3), 100, "top_k=100 is larger than the probe: 20 images"),
        (torch.zeros(20, 3), 0, "top_k=0: must be a whole number >= 1"),
        (torch.tensor([[1.0], [torch.nan]]), 1, "NaN"),
        (torch.zeros(0, 3), 1, r"shape \(0, 3\)"),
    ],
)
def test_errors(q: torch.Tensor, k: int, message: str) -> None:
    with pytest.raises(DissectError, match=message):
        top_images(q, k)


def test_errors_of_kept_activations() -> None:
    kept = top_images(torch.randn(20, 3), 5)
    with pytest.raises(DissectError, match="needs the top 9 images per unit; q has 5"):
        as_top(kept, 9, 20, "top_k")
    with pytest.raises(DissectError, match="q holds 20 images, P holds 21"):
        as_top(kept, 5, 21, "top_k")
    beyond = TopActivations(kept.values, kept.indices + 20, 20)
    with pytest.raises(DissectError, match="beyond the probe"):
        as_top(beyond, 5, 20, "top_k")
    with pytest.raises(DissectError, match="the first part holds 3 units, the second holds 2"):
        merge(kept, top_images(torch.randn(20, 2), 5))


def test_layers_side_by_side() -> None:
    first, second = (top_images(torch.randn(20, units), 5) for units in (3, 2))
    both = concat_layers([first, second])
    assert (both.images, both.layers) == (20, (3, 2))
    assert torch.equal(both.indices[:, 3:], second.indices)
    assert as_top(both, 4, 20, "top_k").layers == (3, 2)
    with pytest.raises(DissectError, match="the first holds 20 images, a layer holds 21"):
        concat_layers([first, top_images(torch.randn(21, 2), 5)])
    with pytest.raises(DissectError, match="the first holds 5 top images, a layer holds 4"):
        concat_layers([first, top_images(torch.randn(20, 2), 4)])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_same_on_cuda() -> None:
    q = draw(np.random.default_rng(0), 500, 60)
    here, there = top_images(q, 40), top_images(q.cuda(), 40)
    assert torch.equal(here.indices, there.indices.cpu())
