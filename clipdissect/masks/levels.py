"""The activation above which a unit counts as firing: its top share of all positions.

A unit that is at its largest activation at more positions than that share (a ReLU6 at its cap) is
saturated: nothing lies above its level, and it fires at it.

Exact where the largest activations of every unit fit the memory, otherwise from a histogram with
a stated error. Both add up counts, so neither depends on the order or size of batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clipdissect.errors import DissectError

FLOAT_BITS = 32
MANTISSA_FROM = 9  # bits of sign and exponent
MOST_BITS, LEAST_BITS = 24, 14
SLACK = 3  # buffers of the exact way, in sizes of what it keeps


@dataclass(frozen=True)
class Levels:
    """Above what the units of a layer fire.

    Args:
        levels: of each unit.
        peaks: the largest activation of each image, float32.
        dead: units with the same activation everywhere.
        saturated: units that fire at their level, as of `levels.is_saturated`.
        error: largest relative error of the levels; 0 where they are exact.
        entry: what the store knows them by.
    """

    levels: Float[Tensor, " units"]
    peaks: Float[Tensor, "images units"]
    dead: Bool[Tensor, " units"]
    saturated: Bool[Tensor, " units"]
    error: float
    entry: str

    @property
    def at_level(self) -> float:
        """Mean share of images in which units are saturated; 0 for units that aren't."""
        at = (self.peaks[:, self.saturated] == self.levels[self.saturated]).sum()
        return float(at) / self.peaks.numel()


def firing(quantile: float, positions: int) -> int:
    """How many of so many positions a unit may fire at: the share, rounded down, but one at least.

    Raises:
        DissectError: a share that isn't between 0 and 1, or fewer than two positions.
    """
    if not 0 < quantile < 1:
        raise DissectError(f"method.quantile is {quantile}; it must be between 0 and 1")
    if positions < 2:
        raise DissectError(f"a threshold needs at least 2 positions; the probe has {positions}")
    return max(1, int(Fraction(str(quantile)) * positions))


def collector(quantile: float, units: int, positions: int, memory: float) -> Exact | Histogram:
    """What finds the levels of a layer's units within so much memory.

    Args:
        quantile: share of positions at which a unit fires.
        units: of the layer.
        positions: of the whole probe, at most.
        memory: in bytes.

    Raises:
        DissectError: not even the coarsest histogram fits.
    """
    keep = firing(quantile, positions) + 1
    if 4 * units * SLACK * keep <= memory:
        return Exact(keep)
    bits = min(MOST_BITS, int(memory / (8 * units)).bit_length() - 1)
    if bits < LEAST_BITS:
        least = 8 * units * 2**LEAST_BITS / 1e9
        raise DissectError(f"method.memory is too small for {units} units: {least:.2g} GB at least")
    return Histogram(units, bits)


def is_saturated(
    levels: Float[Tensor, " units"],
    lowest: Float[Tensor, " units"],
    highest: Float[Tensor, " units"],
) -> Bool[Tensor, " units"]:
    """Units whose level is their largest activation, above which nothing lies; dead ones aren't.

    Args:
        levels: above what units fire otherwise.
        lowest, highest: of their activations.
    """
    return (highest <= levels) & (lowest < levels)


def as_firing(
    maps: Float[np.ndarray, "units ..."],
    levels: Float[np.ndarray, " units"],
    saturated: Bool[np.ndarray, " units"],
) -> tuple[Float[np.ndarray, "units ..."], Float[np.ndarray, " units"]]:
    """Maps and levels such that a unit fires where its interpolated map is above its level.

    A saturated unit fires at its largest activation. Between a position there and one below it
    interpolation would leave nothing at that value, so what is interpolated is 1 where the unit
    fires and 0 elsewhere, and its level is one half.

    Args:
        maps: of every unit.
        levels, saturated: as of `is_saturated`.
    """
    if not saturated.any():
        return maps, levels
    fires = maps[saturated] >= levels[saturated].reshape(-1, *[1] * (maps.ndim - 1))
    maps, levels = maps.copy(), levels.copy()
    maps[saturated], levels[saturated] = fires, 0.5
    return maps, levels


class Exact:
    """The largest activations of every unit, running.

    Args:
        keep: how many.
    """

    error = 0.0

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.parts: list[Float[Tensor, "units n"]] = []

    def add(self, values: Float[Tensor, "units positions"]) -> None:
        """Take some positions in."""
        largest = min(self.keep, values.shape[1])
        self.parts.append(values if largest == values.shape[1] else values.topk(largest).values)
        if sum(part.shape[1] for part in self.parts) > (SLACK - 1) * self.keep:
            self._shrink()

    def levels(self, firing: int) -> Float[Tensor, " units"]:
        """The activation that exactly `firing` positions exceed, or fewer where some are equal."""
        self._shrink()
        return self.parts[0][:, firing].cpu()

    def _shrink(self) -> None:
        together = torch.cat(self.parts, dim=1)
        kept = min(self.keep, together.shape[1])
        self.parts = [together.topk(kept, dim=1).values]


class Histogram:
    """Counts of activations by the first bits of their float32 pattern.

    The pattern of a float orders as the float does, so a level is known up to one bin: it is the
    bin's lower end, and the exact one is larger by less than `error` times its size (bins next to
    zero: by less than 1e-37). No more than `firing` positions lie above the bin.

    Args:
        units: how many.
        bits: of the pattern; 9 of them are sign and exponent.
    """

    def __init__(self, units: int, bits: int) -> None:
        self.units, self.bits = units, bits
        self.counts: Int[Tensor, " all_bins"] = torch.zeros(units << bits, dtype=torch.int64)

    @property
    def error(self) -> float:
        """Largest relative error of a level."""
        return float(2.0 ** (MANTISSA_FROM - self.bits))

    def add(self, values: Float[Tensor, "units positions"]) -> None:
        """Take some positions in."""
        # Adding zero makes -0.0 the 0.0 that it equals.
        pattern = (values.float() + 0.0).contiguous().view(torch.int32)
        ordered = torch.where(pattern < 0, pattern ^ 0x7FFFFFFF, pattern)
        bins = (ordered >> (FLOAT_BITS - self.bits)).long() + (1 << (self.bits - 1))
        unit = torch.arange(self.units, device=values.device)[:, None] << self.bits
        self.counts = self.counts.to(values.device)
        flat = (bins + unit).reshape(-1)
        self.counts.scatter_add_(0, flat, torch.ones_like(flat))

    def levels(self, firing: int) -> Float[Tensor, " units"]:
        """As of `Exact`, up to `error` below."""
        found = torch.empty(self.units, dtype=torch.float32)
        for unit, counts in enumerate(self.counts.view(self.units, -1)):
            from_top = counts.flip(0).cumsum(0)
            place = int(torch.searchsorted(from_top, torch.tensor(firing, device=counts.device),
                                           right=True))  # fmt: skip
            found[unit] = self._lower_end(len(counts) - 1 - place)
        return found

    def _lower_end(self, number: int) -> float:
        ordered = (number - (1 << (self.bits - 1))) << (FLOAT_BITS - self.bits)
        pattern = torch.tensor(ordered, dtype=torch.int32)
        if ordered < 0:
            pattern = pattern ^ 0x7FFFFFFF
        return float(pattern.view(torch.float32))
