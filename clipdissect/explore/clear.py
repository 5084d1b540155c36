"""Whether a unit's description tells something."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Bool

from clipdissect.results.describe import NULL
from clipdissect.results.flags import RARE, has_flag


def are_clear(rows: pd.DataFrame) -> Bool[np.ndarray, " units"]:
    """Return which descriptions are above their null, and not of latents that rarely fire.

    The null is the best score with shuffled images; without it, every description counts.
    """
    described = [isinstance(text, str) and text != "" for text in rows["description"]]
    clear: Bool[np.ndarray, " units"] = np.array(described, dtype=bool) & ~has_flag(rows, RARE)
    if NULL in rows:
        above = rows[NULL].isna() | (rows["similarity"] > rows[NULL])
        clear &= above.to_numpy(dtype=bool)
    return clear
