"""Units with the labels of several methods: table, panels, and one unit's label table (Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from clipdissect.app.studies.base import StudyRun, top_images
from clipdissect.evaluation import ClassLabels
from clipdissect.results.tables import ResultTables
from clipdissect.studies import figures
from clipdissect.studies.features import Features

Results = Mapping[str, ResultTables]  # by method; ours is "ours"


def label_table(units: list[tuple[str, int]], results: Results) -> pd.DataFrame:
    table: pd.DataFrame = pd.DataFrame(units, columns=["layer", "unit"])
    for name, result in results.items():
        labels = result.descriptions[["layer", "unit", "description", "similarity"]]
        labels = labels.rename(columns={"description": name, "similarity": f"{name}_score"})
        table = table.merge(labels, "left", on=["layer", "unit"])
        table[name] = table[name].fillna("")
    return table


def save_panels(run: StudyRun, features: Features, table: pd.DataFrame, results: Results) -> None:
    captured, count = features.captured, run.settings.panel_images
    top = {
        layer: top_images(layer, captured.activations[layer], captured.images, count)
        for layer in dict.fromkeys(table["layer"])
    }
    panels = [
        figures.Panel(_lines(row, results, run.truth), top[row["layer"]].get(row["unit"], ()))
        for _, row in table.iterrows()
    ]
    titles = {"random": "random units", "listed": "units"}
    title = titles.get(run.settings.select, f"best scores of {run.settings.rank_by}")
    run.save_panels(panels, title, "qualitative")


def _lines(row: Any, results: Results, truth: ClassLabels) -> tuple[tuple[str, bool], ...]:
    """Return the unit's place, then each method's label; ours is bold."""
    head = f"{row['layer']}, unit {row['unit']}"
    if row["layer"] == truth.layer and row["unit"] < len(truth.names):
        head += f": {truth.names[row['unit']]}"
    lines = [(head, False)]
    for name in results:
        score = row[f"{name}_score"]
        suffix = "" if pd.isna(score) else f" ({score:.2f})"
        lines.append((f"{name}: {row[name] or '(none)'}{suffix}", name == "ours"))
    return tuple(lines)


def unit_table(run: StudyRun, results: Results) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return each method's label of `study.unit_table`, with cosines to the class name."""
    unit = run.settings.unit_table
    truth = run.truth.names[unit]
    labels = {}
    for method, result in results.items():
        described = result.descriptions
        rows = described[(described["layer"] == run.truth.layer) & (described["unit"] == unit)]
        labels[method] = str(rows["description"].iloc[0]) if len(rows) else ""
    texts = list(labels.values())
    table = pd.DataFrame({"method": list(labels), "label": texts})
    vectors, reasons = run.embed(run.truth.names, texts)
    for encoder, embeddings in vectors.items():
        table[f"{encoder}_cos"] = embeddings.cosines(texts, [truth] * len(texts))
    rows = table.set_index("method").astype(object)
    methods = rows.where(rows.notna(), None).to_dict("index")
    metrics = {"unit": unit, "truth": truth, "methods": methods}
    return table, metrics | {f"{name}_cos_reason": reason for name, reason in reasons.items()}
