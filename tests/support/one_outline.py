"""The outline of a single map."""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped

from clipdissect.report.outlines import outlines


def outline(values: Shaped[np.ndarray, "h w"], threshold: float) -> str:
    return outlines(values[None], threshold)[0]
