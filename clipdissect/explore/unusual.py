"""How unusual an image's activations are among those of other images."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clipdissect.capture.activations import Activations, TopKActivations, dead_units, top_of
from clipdissect.capture.capture import MIN_TOP_K

TAIL = 0.1  # share of a unit's images that are its tail


def unusual(
    activations: Float[Tensor, " units"], probe: Activations, rows: Sequence[int]
) -> pd.DataFrame:
    """Return how unusual an image's activations are, the most unusual unit first.

    Units that don't vary on the probe are left out, and so are, of stored top-k lists, units whose
    activation is below the list.

    Args:
        activations: of the image.
        probe: of the images to compare with, or their top-k lists.
        rows: numbers of these images, without the image itself.

    Returns:
        `unit`, `activation`, `share_below`: the share of images with a lower activation, and
        `excess`: how far the activation is above u, the (TAIL * images)-th highest, in units of the
        mean excess over u of the images above it. NaN where no image is. Where a tail is
        exponential, exp(-excess) is the share of images above u that exceed the activation.

    Source: mean excess over a threshold, as in Coles, An Introduction to Statistical Modeling of
    Extreme Values, 2001, chapter 4.
    """
    images = len(rows)
    size = max(1, min(round(TAIL * images), MIN_TOP_K - 1))
    top = _top_without(probe, rows, size)
    threshold = top[-1]
    above = top > threshold
    means = ((top - threshold) * above).sum(0) / above.sum(0)  # NaN where there is none
    excess = (activations.double() - threshold) / means
    share, is_known = _share_below(activations, probe, rows)
    kept = (~dead_units(probe).cpu() & is_known).nonzero()[:, 0]
    table = pd.DataFrame(
        {
            "unit": kept.numpy(),
            "activation": activations[kept].double().numpy(),
            "share_below": share[kept].numpy(),
            "excess": excess[kept].numpy(),
        }
    )
    ordered: pd.DataFrame = table.sort_values(
        ["share_below", "excess"], ascending=False, kind="stable", ignore_index=True
    )
    return ordered


def _top_without(probe: Activations, rows: Sequence[int], size: int) -> Float[Tensor, "size units"]:
    """Return the highest activations of the images `rows`, highest first, in float64."""
    top = top_of(probe, size + 1)  # of which one may be that of the image itself
    is_other = torch.isin(top.indices, torch.tensor(rows))
    values = top.values.double().masked_fill(~is_other, -torch.inf)
    return values.sort(0, descending=True).values[:size]


def _share_below(
    activations: Float[Tensor, " units"], probe: Activations, rows: Sequence[int]
) -> tuple[Float[Tensor, " units"], Bool[Tensor, " units"]]:
    """Return the share of images with a lower activation, and where it is known."""
    index = torch.tensor(rows)
    if not isinstance(probe, TopKActivations):
        below = (probe[index] < activations).sum(0)
        return below.double() / len(rows), torch.ones(len(below), dtype=torch.bool)
    is_other = torch.isin(probe.top.indices, index)
    reached = ((probe.top.values >= activations) & is_other).sum(0)
    is_known = (activations > probe.top.values[-1]) | (len(probe.top.values) == probe.top.images)
    return 1 - reached.double() / len(rows), is_known
