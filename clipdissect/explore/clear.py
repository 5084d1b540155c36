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
    clear = np.array([isinstance(text, str) and text != "" for text in rows["description"]], bool)
    if NULL in rows:
        clear &= (rows[NULL].isna() | (rows["similarity"] > rows[NULL])).to_numpy(dtype=bool)
    clear = clear & ~has_flag(rows, RARE)
    return clear
