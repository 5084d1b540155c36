"""What a run's files know of the right labels."""

from __future__ import annotations

import pandas as pd

from clipdissect.report.loading import Run


def truth_of(run: Run, layer: str) -> pd.DataFrame | None:
    """`truth`, `right` (1 or 0) and `rank` (NaN where unknown) of a layer's rows, or None.

    From `units.csv` where the runner judged the labels; else from the class names that the target
    came with: a label is right where it is the class's name, exactly.
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
    right = [float(text == name) for text, name in zip(rows["description"], names, strict=True)]
    found: pd.DataFrame = pd.DataFrame({"truth": names, "right": right, "rank": ranks})
    return found
