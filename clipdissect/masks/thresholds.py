"""Thresholds above which units are active at the top fraction of all positions."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clipdissect.errors import DissectError

FLOAT_BITS = 32
SIGN_AND_EXPONENT_BITS = 9
MAX_BITS, MIN_BITS = 24, 14
BUFFERS = 3  # memory of `ExactThresholds`, in units of its result


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a layer's units."""

    values: Float[Tensor, " units"]
    max_activation: Float[Tensor, "images units"]  # float32
    dead: Bool[Tensor, " units"]  # the same activation everywhere
    saturated: Bool[Tensor, " units"]  # active at the threshold too; see `is_saturated`
    error: float  # largest relative error of the values; 0 if exact
    entry: str  # key in the store

    @property
    def saturated_fraction(self) -> float:
        """Return the fraction of (unit, image) pairs in which the unit is saturated."""
        at_cap = (self.max_activation[:, self.saturated] == self.values[self.saturated]).sum()
        return float(at_cap) / self.max_activation.numel()


def active_positions(quantile: float, positions: int) -> int:
    """Return the number of positions at which a unit may be active: rounded down, at least 1."""
    if not 0 < quantile < 1:
        raise DissectError(f"method.quantile is {quantile}; it must be between 0 and 1")
    if positions < 2:
        raise DissectError(f"a threshold needs at least 2 positions; the probe has {positions}")
    # As a fraction, because 0.29 * 100 is 28.999999999999996 in floating point.
    return max(1, int(Fraction(str(quantile)) * positions))


def threshold_estimator(
    quantile: float, units: int, positions: int, memory: float
) -> ExactThresholds | HistogramThresholds:
    """Return the most exact threshold estimator that fits the memory, in bytes."""
    count = active_positions(quantile, positions) + 1
    if 4 * units * BUFFERS * count <= memory:
        return ExactThresholds(count)
    bits = min(MAX_BITS, int(memory / (8 * units)).bit_length() - 1)
    if bits < MIN_BITS:
        needed = 8 * units * 2**MIN_BITS / 1e9
        raise DissectError(
            f"method.memory is too small for {units} units: set it to at least {needed:.2g} GB"
        )
    return HistogramThresholds(units, bits)


def is_saturated(
    thresholds: Float[Tensor, " units"],
    lowest: Float[Tensor, " units"],
    highest: Float[Tensor, " units"],
) -> Bool[Tensor, " units"]:
    """Return which units, dead ones excluded, have their largest activation as threshold."""
    # A ReLU6 unit at its cap in more than the top fraction has no activation above its threshold.
    return (highest <= thresholds) & (lowest < thresholds)


def interpolation_inputs(
    maps: Float[np.ndarray, "units ..."],
    thresholds: Float[np.ndarray, " units"],
    saturated: Bool[np.ndarray, " units"],
) -> tuple[Float[np.ndarray, "units ..."], Float[np.ndarray, " units"]]:
    """Return maps and thresholds such that units are active where interpolated maps exceed them."""
    if not saturated.any():
        return maps, thresholds
    # Interpolation between a position at a saturated unit's cap and one below it gives values below
    # the cap. So such a map becomes 1 where the unit is active and 0 elsewhere.
    caps = thresholds[saturated].reshape(-1, *[1] * (maps.ndim - 1))
    active = maps[saturated] >= caps
    maps, thresholds = maps.copy(), thresholds.copy()
    maps[saturated], thresholds[saturated] = active, 0.5
    return maps, thresholds


def sparse_inputs(
    maps: Float[np.ndarray, "units ..."], thresholds: Float[np.ndarray, " units"]
) -> tuple[Float[np.ndarray, "units ..."], Float[np.ndarray, " units"]]:
    """Return maps and thresholds of latents such that active regions end between positions.

    Interpolated codes of a latent with threshold 0 exceed it up to the centres of silent
    positions, which makes the region of a single position four times as large.
    """
    at_zero = thresholds == 0
    maps, thresholds = maps.copy(), thresholds.copy()
    maps[at_zero], thresholds[at_zero] = maps[at_zero] > 0, 0.5
    return maps, thresholds


class ExactThresholds:
    """A running top `count` of every unit's activations."""

    error = 0.0

    def __init__(self, count: int) -> None:
        self.count = count
        self.parts: list[Float[Tensor, "units n"]] = []

    def add(self, values: Float[Tensor, "units positions"]) -> None:
        largest = min(self.count, values.shape[1])
        self.parts.append(values if largest == values.shape[1] else values.topk(largest).values)
        if sum(part.shape[1] for part in self.parts) > (BUFFERS - 1) * self.count:
            self._shrink()

    def thresholds(self, active: int) -> Float[Tensor, " units"]:
        """Return the activations that exactly `active` positions exceed, fewer with ties."""
        self._shrink()
        return self.parts[0][:, active].cpu()

    def _shrink(self) -> None:
        values = torch.cat(self.parts, dim=1)
        self.parts = [values.topk(min(self.count, values.shape[1]), dim=1).values]


class HistogramThresholds:
    """Counts of activations by the first `bits` bits of their float32 pattern.

    Patterns order as floats do, so a threshold is known up to one bin. It is the bin's lower
    end; the exact one is larger by less than `error` times its size (bins next to zero: by less
    than 1e-37). At most `active` positions lie above the bin.
    """

    def __init__(self, units: int, bits: int) -> None:
        self.units, self.bits = units, bits
        self.counts: Int[Tensor, " all_bins"] = torch.zeros(units << bits, dtype=torch.int64)

    @property
    def error(self) -> float:
        return float(2.0 ** (SIGN_AND_EXPONENT_BITS - self.bits))

    def add(self, values: Float[Tensor, "units positions"]) -> None:
        # Adding zero turns -0.0 into the equal 0.0.
        pattern = (values.float() + 0.0).contiguous().view(torch.int32)
        # Patterns of negative floats order in reverse.
        ordered = torch.where(pattern < 0, pattern ^ 0x7FFFFFFF, pattern)
        bins = (ordered >> (FLOAT_BITS - self.bits)).long() + (1 << (self.bits - 1))
        unit = torch.arange(self.units, device=values.device)[:, None] << self.bits
        self.counts = self.counts.to(values.device)
        flat = (bins + unit).reshape(-1)
        self.counts.scatter_add_(0, flat, torch.ones_like(flat))

    def thresholds(self, active: int) -> Float[Tensor, " units"]:
        """Return the thresholds, up to `error` below the exact ones."""
        thresholds = torch.empty(self.units, dtype=torch.float32)
        for unit, counts in enumerate(self.counts.view(self.units, -1)):
            from_top = counts.flip(0).cumsum(0)
            wanted = torch.tensor(active, device=counts.device)
            place = int(torch.searchsorted(from_top, wanted, right=True))
            thresholds[unit] = self._lower_end(len(counts) - 1 - place)
        return thresholds

    def _lower_end(self, number: int) -> float:
        ordered = (number - (1 << (self.bits - 1))) << (FLOAT_BITS - self.bits)
        pattern = torch.tensor(ordered, dtype=torch.int32)
        if ordered < 0:
            pattern = pattern ^ 0x7FFFFFFF
        return float(pattern.view(torch.float32))
