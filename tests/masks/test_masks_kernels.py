"""The loops over masks: compiled against plain, and both against what they should compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from clipdissect.masks import kernels
from clipdissect.masks.kernels import plain
from clipdissect.masks.layout import Layout, packed, unpacked


@pytest.fixture(params=["numba", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two implementations."""
    name = str(request.param)
    if name == "torch":
        monkeypatch.setenv("CLIPDISSECT_KERNELS", "torch")
    elif kernels.COMPILED.module() is None:
        pytest.skip("Numba doesn't work here")
    return name


@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_packing_is_undone_by_unpacking(pixels: int, seed: int) -> None:
    masks = np.random.default_rng(seed).random((3, pixels)) < 0.4
    words = packed(masks)
    assert words.shape == (3, -(-pixels // 64))
    assert (unpacked(words, pixels) == masks).all()
    assert (plain.popcount(words).sum(1) == masks.sum(1)).all()


def test_popcount_of_older_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.random.default_rng(0).integers(0, 2**63, (4, 5), dtype=np.uint64)
    expected = [[bin(int(w)).count("1") for w in row] for row in words]
    assert plain.popcount(words).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert plain.popcount(words).tolist() == expected


def test_images_begin_with_words_of_their_own() -> None:
    layout = Layout.of([(8, 8), (3, 5), (9, 9)])
    assert layout.starts.tolist() == [0, 1, 2, 4]
    assert (layout.words, layout.pixels) == (4, 64 + 15 + 81)
    assert layout.images_of(np.arange(4)).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("old", "new"),
    [((4, 4), (8, 8)), ((3, 5), (17, 11)), ((8, 8), (8, 8)), ((1, 1), (5, 4)), ((9, 6), (4, 3))],
)
def test_stretching_is_torchs_bilinear(
    backend: str, old: tuple[int, int], new: tuple[int, int]
) -> None:
    maps = torch.rand(5, *old, generator=torch.Generator().manual_seed(0))
    values = F.interpolate(maps[None], new, mode="bilinear", align_corners=False)[0]
    levels = torch.tensor([0.2, 0.5, 0.7, 0.99, 0.0])
    found = unpacked(
        kernels.upsample_and_threshold(maps.numpy(), levels.numpy(), new), new[0] * new[1]
    )
    near = (values - levels[:, None, None]).abs() < 1e-6
    same = torch.from_numpy(found).view_as(values) == (values > levels[:, None, None])
    assert (same | near).all()
    assert near.float().mean() < 0.2


def test_both_stretch_alike_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    maps = random.standard_normal((40, 7, 7)).astype(np.float32)
    levels = maps[:, 3, 3].copy()  # values that interpolation meets again
    compiled = kernels.upsample_and_threshold(maps, levels, (14, 21))
    monkeypatch.setenv("CLIPDISSECT_KERNELS", "torch")
    assert (kernels.upsample_and_threshold(maps, levels, (14, 21)) == compiled).all()


def test_no_maps_at_all(backend: str) -> None:
    found = kernels.upsample_and_threshold(
        np.zeros((0, 3, 3), np.float32), np.zeros(0, np.float32), (9, 9)
    )
    assert found.shape == (0, 2)


def masks_of(random: np.random.Generator, concepts: int, words: int) -> dict[str, Any]:
    """Concepts' words, dense and as lists."""
    bits = random.integers(0, 2**63, (concepts, words), dtype=np.uint64)
    bits[random.random(bits.shape) < 0.6] = 0
    word, concept = bits.T.nonzero()
    rows = np.concatenate([[0], np.cumsum(np.bincount(word, minlength=words))]).astype(np.int64)
    return {
        "dense": bits,
        "rows": rows,
        "concept": concept.astype(np.int32),
        "bits": bits[concept, word],
    }


def units_of(random: np.random.Generator, units: int, words: int) -> dict[str, Any]:
    bits = random.integers(0, 2**63, (units, words), dtype=np.uint64)
    bits[random.random(bits.shape) < 0.5] = 0
    bits[1] = 0  # a unit that never fires
    unit, word = bits.nonzero()
    starts = np.concatenate([[0], np.cumsum(np.bincount(unit, minlength=units))]).astype(np.int64)
    return {
        "dense": bits,
        "starts": starts,
        "words": word.astype(np.int64),
        "bits": bits[unit, word],
    }


def test_overlaps_are_those_of_dense_masks(backend: str) -> None:
    random = np.random.default_rng(2)
    concepts, units = masks_of(random, 7, 30), units_of(random, 5, 30)
    other = units["bits"] & random.integers(0, 2**63, len(units["bits"]), dtype=np.uint64)
    found = kernels.intersections(
        units["starts"],
        units["words"],
        np.stack([units["bits"], other]),
        concepts["rows"],
        concepts["concept"],
        concepts["bits"],
        7,
    )
    assert found.shape == (5, 2, 7)
    for unit in range(5):
        for concept in range(7):
            both = units["dense"][unit] & concepts["dense"][concept]
            assert found[unit, 0, concept] == sum(bin(int(w)).count("1") for w in both)
    assert (found[:, 1] <= found[:, 0]).all() and (found[1] == 0).all()


def test_masks_of_longer_formulas(backend: str) -> None:
    random = np.random.default_rng(3)
    concepts, units = masks_of(random, 4, 20), units_of(random, 3, 20)
    moves = np.array([[[0, 0, 0, -1]] * 3, [[0, 1, 2, -1]] * 3, [[3, 1, 2, -1]] * 3])
    found = kernels.extend_masks(
        units["starts"],
        units["words"],
        units["bits"][None],
        units["bits"],
        *moves,
        concepts["rows"],
        concepts["concept"],
        concepts["bits"],
    )
    dense = concepts["dense"]
    for unit in range(3):
        here = slice(units["starts"][unit], units["starts"][unit + 1])
        own, at = units["bits"][here], units["words"][here]
        assert (found[0, here] == (own & dense[3, at])).all()
        assert (found[1, here] == own).all()  # OR: the rest of the concept lies outside of the unit
        assert (found[2, here] == (own & ~dense[2, at])).all()
        assert (found[3, here] == 0).all()


def test_formulas_are_counted_as_dense_masks(backend: str) -> None:
    random = np.random.default_rng(4)
    masks = masks_of(random, 5, 40)
    operands = np.array([[0, 1, 2], [3, 4, 0], [2, 3, 1]])
    operators = np.array([[0, 0, 1], [0, 1, 2], [0, 2, 0]])
    shared, sizes = kernels.count_formulas(
        masks["rows"], masks["concept"], masks["bits"], 5, operands, operators
    )
    dense = masks["dense"]
    formulas = [
        (dense[0] & dense[1]) | dense[2],
        (dense[3] | dense[4]) & ~dense[0],
        dense[2] & ~dense[3] & dense[1],
    ]
    for number, formula in enumerate(formulas):
        assert sizes[number] == plain.popcount(formula).sum()
        assert shared[number].tolist() == plain.popcount(formula & dense).sum(1).tolist()


def test_what_fails_to_compile_is_done_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("clipdissect.utils.jit.prepare", broken)
    monkeypatch.setattr(kernels.COMPILED, "failed", False)
    masks = masks_of(np.random.default_rng(5), 3, 9)
    none = np.zeros((1, 1), dtype=np.int64)
    shared, sizes = kernels.count_formulas(
        masks["rows"], masks["concept"], masks["bits"], 3, none, none
    )
    assert sizes[0] == shared[0, 0] == plain.popcount(masks["dense"][0]).sum()


def test_errors_of_the_data_are_not_the_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any) -> None:
        raise IndexError("word 9 of 3")

    monkeypatch.delenv("CLIPDISSECT_KERNELS", raising=False)
    monkeypatch.setattr(kernels.COMPILED, "failed", False)
    if kernels.COMPILED.module() is None:
        pytest.skip("Numba doesn't work here")
    with monkeypatch.context() as patch, pytest.raises(IndexError, match="word 9"):
        patch.setattr("clipdissect.utils.compiled_kernels.run_in_threads", failing)
        kernels.upsample_and_threshold(
            np.ones((1, 2, 2), dtype=np.float32), np.zeros(1, dtype=np.float32), (4, 4)
        )
    assert kernels.COMPILED.module() is not None


@pytest.mark.parametrize(
    ("old", "new"), [((4, 4), (8, 8)), ((3, 5), (17, 11)), ((1, 1), (5, 4)), ((9, 6), (4, 3))]
)
def test_ranges_are_those_of_torchs_bilinear(
    backend: str, old: tuple[int, int], new: tuple[int, int]
) -> None:
    # Multiples of 1/4 in steps of small sizes: both interpolations are exact or far from bounds.
    maps = np.random.default_rng(0).integers(0, 40, (5, *old)).astype(np.float32) / 4
    lower, upper = np.float32([7.1, 3.3, 0]), np.float32([9.75, 7.1, 2.9])
    found = kernels.upsample_and_split(maps, lower, upper, new)
    wide = F.interpolate(torch.from_numpy(maps)[None], size=new, mode="bilinear")[0].numpy()
    for low, high, words in zip(lower, upper, found, strict=True):
        expected = (wide >= low) & (wide <= high)
        assert (unpacked(words, new[0] * new[1]).reshape(wide.shape) == expected).all()


def test_a_range_includes_its_ends(backend: str) -> None:
    maps = np.float32([[[1, 2]], [[2, 3]], [[5, 5]]])
    found = kernels.upsample_and_split(maps, np.float32([2]), np.float32([3]), (1, 2))
    assert unpacked(found[0], 2).tolist() == [[False, True], [True, True], [False, False]]
