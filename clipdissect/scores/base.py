"""What scores are computed of: units of a layer, each with a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

Scores = dict[str, Float[np.ndarray, " pairs"]]  # by name; NaN where undefined


@dataclass(frozen=True)
class Pairs:
    """Units of one layer, each with a text; both may occur several times.

    Args:
        units: unit numbers of the layer.
        texts: indices into a list of texts.
    """

    units: Int[np.ndarray, " pairs"]
    texts: Int[np.ndarray, " pairs"]

    def __post_init__(self) -> None:
        if len(self.units) != len(self.texts):
            raise ValueError(f"{len(self.units)} units, but {len(self.texts)} texts")

    def __len__(self) -> int:
        return len(self.units)
