"""Units of two networks that are the same: by number, or by their activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from clipdissect.errors import DissectError
from clipdissect.explore.activations import activations_of, inputs_of
from clipdissect.explore.correlation import correlation

if TYPE_CHECKING:
    from clipdissect.explore.result import Result

MATCHES = INDEX, CORRELATION = "index", "correlation"
MAX_ASSIGNED = 10_000  # units of a layer that are matched one-to-one: the assignment is cubic


@dataclass(frozen=True)
class Matching:
    """Pairs of units of a layer, in the order of the first run's."""

    first: Int[np.ndarray, " pairs"]
    second: Int[np.ndarray, " pairs"]
    correlation: Float[np.ndarray, " pairs"]  # NaN if not computed
    notes: tuple[str, ...] = ()


def match_units(first: Result, second: Result, layer: str, match: str) -> Matching:
    """Return the pairs of units of a layer that both results describe; see `diff`."""
    units = [_units(result, layer) for result in (first, second)]
    if match == INDEX:
        both = np.intersect1d(units[0], units[1])
        return Matching(both, both, np.full(len(both), np.nan), _unpaired(layer, units, len(both)))
    return _by_correlation(first, second, layer, units)


def _units(result: Result, layer: str) -> Int[np.ndarray, " units"]:
    rows = result.descriptions[result.descriptions["layer"] == layer]
    return np.unique(rows["unit"].to_numpy(dtype=np.int64))


def _unpaired(layer: str, units: list[Int[np.ndarray, " units"]], pairs: int) -> tuple[str, ...]:
    left = sum(map(len, units)) - 2 * pairs
    return (f"layer {layer}: {left} units have no counterpart in the other run",) if left else ()


def _by_correlation(
    first: Result, second: Result, layer: str, units: list[Int[np.ndarray, " units"]]
) -> Matching:
    (a, images), (b, others) = (_activations(result, layer) for result in (first, second))
    if images != others:
        raise DissectError(
            "units are matched by their correlation on the same images, and the two runs are on "
            "others: describe both networks on one probe, or match them by index"
        )
    correlations = correlation(a[:, torch.from_numpy(units[0])], b[:, torch.from_numpy(units[1])])
    notes = _unpaired(layer, units, min(map(len, units)))
    if max(map(len, units)) > MAX_ASSIGNED:
        rows, columns = np.arange(len(units[0])), correlations.argmax(1)
        notes = (
            f"layer {layer} has more than {MAX_ASSIGNED} units: each is matched with the one that "
            "it correlates with most, which may be that of several",
        )
    else:
        rows, columns = linear_sum_assignment(correlations, maximize=True)
    chosen = correlations[rows, columns]
    return Matching(units[0][rows], units[1][columns], chosen, notes)


def _activations(result: Result, layer: str) -> tuple[Float[Tensor, "images units"], list[str]]:
    """Return a layer's activations on the result's images, and the identities of these."""
    _, probe, _ = inputs_of(result)
    features = activations_of(result, [layer], probe)
    q = features.activations[layer]
    if not isinstance(q, Tensor):
        raise DissectError(
            f"layer {layer} has stored activations of its top images only, and correlations take "
            "those of all images: set capture.keep=full"
        )
    return q, [probe.digest, *features.images]
