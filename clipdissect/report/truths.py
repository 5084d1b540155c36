"""What a run's files know of the right labels."""

from __future__ import annotations

import numpy as np
import pandas as pd

from clipdissect.datasets.class_names import is_a_name
from clipdissect.report.loading import Run


def truth_of(run: Run, layer: str) -> pd.DataFrame | None:
    """`truth`, `right`, `right_any_synonym` (1 or 0) and `rank` (NaN where unknown), or None.

    From `units.csv` where the runner judged the labels; else from the class names that the target
    came with: a label is right where it is the class's name, exactly, and by any synonym where it
    is one of its names.
    """
    rows = run.rows(layer)
    judged = run.units[run.units["layer"] == layer] if "truth" in run.units else run.units.iloc[:0]
    if len(judged):
        by_unit = judged.set_index("unit").reindex(rows["unit"])
        names = by_unit["truth"].fillna("").tolist()
        ranks = by_unit["rank"].tolist() if "rank" in by_unit else [float("nan")] * len(rows)
    else:
        known = run.material.facts.get("truth", {}).get(layer)
        if not known:
            return None
        names = [known[u] if u < len(known) else "" for u in rows["unit"]]
        nothing = pd.Series([float("nan")] * len(rows))
        ranks = rows.get("truth_rank", nothing).tolist()
    named = np.array([bool(name) for name in names])  # no description isn't the name of no class
    right = named & (rows["description"].to_numpy(dtype=object) == np.array(names, dtype=object))
    near = named & np.array(is_a_name(rows["description"], names), dtype=bool)
    found: pd.DataFrame = pd.DataFrame({
        "truth": names, "right": right.astype(float), "right_any_synonym": near.astype(float),
        "rank": ranks,
    })  # fmt: skip
    return found
