"""Thresholds of units: exact, and from a histogram within its stated error."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_outline import outline

from clipdissect.errors import DissectError
from clipdissect.masks.kernels import upsample_and_threshold
from clipdissect.masks.layout import unpacked
from clipdissect.masks.thresholds import (
    ExactThresholds,
    HistogramThresholds,
    active_positions,
    interpolation_inputs,
    is_saturated,
    threshold_estimator,
)

VALUES = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


@given(st.lists(VALUES, min_size=4, max_size=80), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_exact_thresholds_are_those_of_sorting(values: list[float], step: int) -> None:
    q = torch.tensor([values, [-v for v in values]])
    count = active_positions(0.3, len(values))
    exact = ExactThresholds(count + 1)
    for start in range(0, len(values), step):
        exact.add(q[:, start : start + step])
    expected = q.sort(1, descending=True).values[:, count]
    assert torch.equal(exact.thresholds(count), expected)
    assert ((q > expected[:, None]).sum(1) <= count).all()


@given(st.lists(VALUES, min_size=4, max_size=80), st.sampled_from([14, 16, 20]))
@settings(max_examples=60, deadline=None)
def test_histograms_keep_their_error(values: list[float], bits: int) -> None:
    q = torch.tensor([values, [v / 1000 for v in values]])
    count = active_positions(0.25, len(values))
    histogram = HistogramThresholds(2, bits)
    for start in range(0, len(values), 7):
        histogram.add(q[:, start : start + 7])
    exact = q.sort(1, descending=True).values[:, count].double()
    found = histogram.thresholds(count).double()
    assert histogram.error == 2.0 ** (9 - bits)
    assert (found <= exact).all()
    assert (exact - found <= histogram.error * found.abs() + 1e-37).all()


def test_thresholds_do_not_depend_on_the_batches() -> None:
    q = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    found = []
    for sizes in ([1000], [1] * 1000, [300, 7, 693]):
        histogram, exact = HistogramThresholds(3, 18), ExactThresholds(51)
        for part in q.split(sizes, dim=1):
            histogram.add(part)
            exact.add(part)
        found.append(torch.cat([histogram.thresholds(50), exact.thresholds(50)]))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_positive_zero_and_negative_zero_are_one() -> None:
    histogram = HistogramThresholds(1, 16)
    histogram.add(torch.tensor([[0.0, -0.0, -0.0, 1.0]]))
    assert histogram.thresholds(2).item() == 0.0


def test_the_share_is_exact_and_at_least_one() -> None:
    assert active_positions(0.005, 1000) == 5
    assert active_positions(0.07, 100) == 7  # 0.07 * 100 is 7.000000000000001 in floats
    assert active_positions(0.29, 100) == 29  # and 0.29 * 100 is 28.999999999999996
    assert active_positions(0.005, 3) == 1 == int(max(1, Fraction("0.005") * 3))
    for quantile, positions in ((0.0, 9), (1.0, 9), (0.5, 1)):
        with pytest.raises(DissectError, match=r"quantile|positions"):
            active_positions(quantile, positions)


def test_the_memory_decides() -> None:
    assert isinstance(threshold_estimator(0.005, 512, 196_000, 2e9), ExactThresholds)
    sketch = threshold_estimator(0.005, 512, 3_000_000_000, 2e9)
    assert isinstance(sketch, HistogramThresholds)
    assert 8 * 512 * 2**sketch.bits <= 2e9 < 8 * 512 * 2 ** (sketch.bits + 1)
    with pytest.raises(DissectError, match=r"method\.memory is too small"):
        threshold_estimator(0.005, 512, 3_000_000_000, 1e6)


def test_saturated_units_fire_at_their_cap_and_others_above_their_threshold() -> None:
    """A ReLU6 at 6, a ReLU that is mostly 0, one that is never above 0, and a dead unit."""
    q = torch.rand(4, 1000, generator=torch.Generator().manual_seed(0))
    q[0, :300] = 6.0
    q[1, 3:] = 0.0
    q[2] = -q[2].clamp(max=0.9)
    q[2, :100] = 0.0
    q[3] = 6.0
    for found in (ExactThresholds(11), HistogramThresholds(4, 16)):
        found.add(q)
        thresholds = torch.where(q.amax(1) == q.amin(1), q.amax(1), found.thresholds(10))
        saturated = is_saturated(thresholds, q.amin(1), q.amax(1))
        assert saturated.tolist() == [True, False, True, False]
        maps, above = interpolation_inputs(q.numpy(), thresholds.numpy(), saturated.numpy())
        fires = maps > above[:, None]
        assert fires.sum(1).tolist() == [300, 3, 100, 0]
        assert (fires[0] == (q[0] == 6).numpy()).all()


def test_a_single_position_at_the_cap_has_pixels_after_interpolation() -> None:
    """Nowhere but there is the interpolated map at the cap, and that may lie between pixels."""
    maps = np.full((1, 4, 4), 5.0, dtype=np.float32)
    maps[0, 1, 2] = 6.0
    cap, saturated = np.array([6.0], dtype=np.float32), np.array([True])
    fires, above = interpolation_inputs(maps, cap, saturated)
    pixels = unpacked(upsample_and_threshold(fires, above, (16, 16)), 256).reshape(16, 16)
    assert pixels[4:8, 8:12].sum() == pixels.sum() >= 4
    assert outline(fires[0], float(above[0]))
    assert not upsample_and_threshold(maps, cap, (16, 16)).any() and not outline(maps[0], 6.0)
