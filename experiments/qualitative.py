"""Show units side by side: top images and the labels of several methods (Figs. 1, 3, 7, 8).

study.select: random units of each of target.layers (seeded), the most interpretable ones (by our
score, or by that of study.rank_by), or those listed in study.units. study.labels adds published
labels beside our own. study.unit_table=150 judges every method's label of one unit of the layer of
classes by its cosines to the class name (Fig. 3). Writes qualitative.csv, metrics.json,
qualitative.png and .pdf, unit_table.csv where asked and, last, run.json to
<paths.results>/qualitative/<date>_<time>/.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clipdissect.app.launch import results_folder
from clipdissect.app.study_job import launch_study


def run(config: Any) -> None:
    """One set of panels as configured."""
    from clipdissect import method
    from clipdissect.app import evaluation_job
    from clipdissect.app import study_job as studying
    from clipdissect.app.build import of_group
    from clipdissect.results.run_files import begin
    from clipdissect.studies import figures
    from clipdissect.studies.features import features
    from clipdissect.studies.qualitative import check
    from clipdissect.utils.timing import Timers

    folder, stages = results_folder(), Timers()
    with stages.stage("load"):
        chosen = of_group(method.build, config.method)
        study = studying.settings(config, chosen)
        job, truth = studying.job_of(config, chosen)
        others = {name: method.build("published", **values).describe(job)
                  for name, values in (study.labels or {}).items()}  # fmt: skip
        known = others[study.rank_by].descriptions if study.rank_by in others else None
        asked = job.target.layers
        check(study, asked, (str(truth.layer), len(truth.names)), known)
        sentences = evaluation_job.sentences_of(config) if study.unit_table is not None else {}
    layers = list(asked)
    if study.unit_table is not None and truth.layer not in layers:
        layers.append(str(truth.layer))
    with stages.stage("images"):
        found = features(replace(job, images=max(job.images, study.panel_images)), layers)
    job = replace(job, target=replace(job.target, layers=tuple(layers)))
    results = {"ours": chosen.describe(job), **others}
    with stages.stage("study"):
        units = _units(study, asked, found, results)
        table = _table(units, results)
        top = _tops(found, {layer for layer, _ in units}, study.panel_images)
    begin(folder)
    panels = [figures.Panel(_lines(row, results, truth), _images(top, row)) for _, row in
              table.iterrows()]  # fmt: skip
    title = {"random": "random units", "interpretable": f"best scores of {study.rank_by}",
             "listed": "units"}[study.select]  # fmt: skip
    figures.save_figure(figures.panels(panels, job.probe, title=title), folder, "qualitative")
    metrics: dict[str, Any] = {"units": len(table), "labelled": _labelled(table, results)}
    tables = {"qualitative": table}
    if study.unit_table is not None:
        tables["unit_table"], metrics["unit_table"] = _judged(study, truth, results, sentences, job)
        print(tables["unit_table"].to_string(index=False))
    run = studying.manifest(found, config, sentences, stages.seconds)
    run["labels"] = {name: result.run["digests"]["labels"] for name, result in others.items()}
    studying.save(config, folder, tables, {"qualitative": metrics}, run, job.probe)


def _units(study: Any, layers: Any, found: Any, results: dict[str, Any]) -> list[tuple[str, int]]:
    from clipdissect.capture.activations import units_of
    from clipdissect.studies.qualitative import choose

    counts = {layer: units_of(q) for layer, q in found.captured.activations.items()}
    return choose(study, layers, counts, results[study.rank_by].descriptions)


def _table(units: list[tuple[str, int]], results: dict[str, Any]) -> Any:
    """One row a unit, with every method's label and score."""
    import pandas as pd

    table = pd.DataFrame(units, columns=["layer", "unit"])
    for name, result in results.items():
        own = result.descriptions[["layer", "unit", "description", "similarity"]]
        own = own.rename(columns={"description": name, "similarity": f"{name}_score"})
        table = table.merge(own, "left", on=["layer", "unit"])
        table[name] = table[name].fillna("")
    return table


def _tops(found: Any, layers: Any, count: int) -> Any:
    import pandas as pd

    from clipdissect.results.describe import top_images_of_layer

    captured = found.captured
    tops = (
        top_images_of_layer(layer, captured.activations[layer], captured.images, count)
        for layer in sorted(layers)
    )
    return pd.concat(tops)


def _images(top: Any, row: Any) -> tuple[str, ...]:
    own = top[(top["layer"] == row["layer"]) & (top["unit"] == row["unit"])]
    return tuple(own["image"])


def _lines(row: Any, results: dict[str, Any], truth: Any) -> tuple[tuple[str, bool], ...]:
    """Where the unit is, then each method's label; ours is bold."""
    head = f"{row['layer']}, unit {row['unit']}"
    if row["layer"] == truth.layer and row["unit"] < len(truth.names):
        head += f": {truth.names[row['unit']]}"
    lines = [(head, False)]
    for name in results:
        score = row[f"{name}_score"]
        said = "" if score != score else f" ({score:.2f})"  # NaN is no score
        lines.append((f"{name}: {row[name] or '(none)'}{said}", name == "ours"))
    return tuple(lines)


def _labelled(table: Any, results: dict[str, Any]) -> dict[str, int]:
    return {name: int((table[name] != "").sum()) for name in results}


def _judged(
    study: Any, truth: Any, results: dict[str, Any], sentences: Any, job: Any
) -> tuple[Any, dict[str, Any]]:
    """Fig. 3's table: each method's label of one unit, and its cosines to the class name."""
    import pandas as pd

    from clipdissect.evaluation.vectors import Vectors
    from clipdissect.studies.numbers import embedded

    name = truth.names[study.unit_table]
    labels = {}
    for method, result in results.items():
        own = result.descriptions
        row = own[(own["layer"] == truth.layer) & (own["unit"] == study.unit_table)]
        labels[method] = str(row["description"].iloc[0]) if len(row) else ""
    cosines = embedded(sentences, (truth.names, list(labels.values())), job.store,
                       job.settings.torch_device)  # fmt: skip
    table = pd.DataFrame({"method": list(labels), "label": list(labels.values())})
    metrics: dict[str, Any] = {"unit": study.unit_table, "truth": name, "methods": {}}
    for encoder, vectors in cosines.items():
        if isinstance(vectors, Vectors):
            table[f"{encoder}_cos"] = vectors.cosines(list(labels.values()), [name] * len(labels))
        else:
            metrics[f"{encoder}_cos_reason"] = vectors
    plain = table.astype(object).where(table.notna(), None)
    for row in plain.to_dict("records"):
        metrics["methods"][row.pop("method")] = row
    return table, metrics


def main() -> None:
    """Entry point of `python -m experiments.qualitative`."""
    launch_study(run, "qualitative")


if __name__ == "__main__":
    main()
