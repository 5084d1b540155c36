"""Otsu's thresholds and the boxes around active regions, by hand and against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest

from clipdissect.masks.boxes import active_boxes, otsu_thresholds, overlap


def slow_otsu(values: list[float]) -> float:
    """The largest value of the lower class of the best of all splits."""
    best, threshold = -1.0, max(values)
    for cut in sorted(set(values))[:-1]:
        lower = [v for v in values if v <= cut]
        upper = [v for v in values if v > cut]
        between = len(lower) * len(upper) * (np.mean(upper) - np.mean(lower)) ** 2
        if between > best + 1e-9:
            best, threshold = between, cut
    return threshold


def test_thresholds_are_those_of_all_splits() -> None:
    generator = np.random.default_rng(0)
    rows = np.concatenate(
        [
            generator.normal(size=(20, 30)),
            generator.integers(-3, 4, size=(20, 30)).astype(float),  # with equal values
            np.maximum(generator.normal(size=(20, 30)), 0),
        ]
    )
    found = otsu_thresholds(rows)
    np.testing.assert_allclose(found, [slow_otsu(row.tolist()) for row in rows])
    np.testing.assert_allclose(otsu_thresholds(3 * rows + 1), 3 * found + 1)


def test_thresholds_by_hand() -> None:
    rows = np.array([[0.0, 0, 0, 1, 9, 10], [2, 2, 2, 2, 2, 2], [0, 0, 0, np.nan, 1, 1]])
    found = otsu_thresholds(rows)
    assert found[:2].tolist() == [1.0, 2.0]  # nothing is above a constant
    assert np.isnan(found[2])
    assert otsu_thresholds(np.array([[3.0]])).tolist() == [3.0]


MAP = np.zeros((8, 8))
MAP[0, 0] = 5  # a region of one position
MAP[3:5, 3:6] = 9
MAP[5, 6] = 7  # touches it by a corner


def test_boxes_are_around_regions_by_their_peak() -> None:
    assert active_boxes(MAP, 1.0) == [(3, 3, 6, 7), (0, 0, 1, 1)]
    assert active_boxes(MAP, 6.0) == [(3, 3, 6, 7)]
    assert active_boxes(MAP, 9.0) == []
    assert active_boxes(MAP, float("nan")) == []


def test_a_box_of_the_whole_map_and_overlapping_ones_are_left_out() -> None:
    ring = np.zeros((10, 10))
    ring[0], ring[-1], ring[:, 0], ring[:, -1] = 1, 1, 1, 1
    assert active_boxes(ring, 0.5) == []  # the box of a ring is everything
    ring[5, 5] = 2
    assert active_boxes(ring, 0.5) == [(5, 5, 6, 6)]
    nested = np.zeros((12, 12))
    nested[0:9, 0], nested[8, 0:9] = 2, 2  # an L, with box (0, 0, 9, 9)
    nested[0:5, 2:7] = 1  # in it: 25 of 81
    assert active_boxes(nested, 0.5) == [(0, 0, 9, 9), (0, 2, 5, 7)]
    nested[0:7, 2:9] = 1  # 49 of 81
    assert active_boxes(nested, 0.5) == [(0, 0, 9, 9)]
    assert overlap((0, 0, 6, 6), (0, 2, 4, 6)) == pytest.approx(16 / 36)
    assert overlap((0, 0, 2, 2), (2, 2, 4, 4)) == 0.0


def test_at_most_four_boxes() -> None:
    dots = np.zeros((7, 7))
    dots[::2, ::2] = np.arange(16).reshape(4, 4)
    assert active_boxes(dots, 0.5) == [(6, 6, 7, 7), (6, 4, 7, 5), (6, 2, 7, 3), (6, 0, 7, 1)]
