"""Show units side by side: top images and the labels of several methods (Figs. 1, 3, 7, 8).

study.select: random units of each of target.layers (seeded), the most interpretable ones (by our
score, or by that of study.rank_by), or those listed in study.units. study.labels adds published
labels to our own. study.unit_table=150 compares every method's label of one unit of the layer of
classes by its cosines to the class name (Fig. 3). Writes qualitative.csv, metrics.json,
qualitative.png and .pdf, unit_table.csv if configured and, last, run.json to
<paths.results>/qualitative/<date>_<time>/.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clipdissect.app.launch import launch_study, results_folder


def run(config: Any) -> None:
    from clipdissect import method
    from clipdissect.app.studies import qualitative as outputs
    from clipdissect.app.studies.base import StudyRun, facts_of
    from clipdissect.capture.activations import units_of
    from clipdissect.studies.features import features
    from clipdissect.studies.qualitative import check, choose

    with_table = config.study.unit_table is not None
    study = StudyRun(config, results_folder(), own_labels=True, embeds_texts=with_table)
    settings, layers, truth = study.settings, study.job.target.layers, study.truth
    with study.timers.stage("load"):
        published = {
            name: method.build("published", **parameters).describe(study.job)
            for name, parameters in (settings.labels or {}).items()
        }
        ranked = published[settings.rank_by].descriptions if settings.rank_by != "ours" else None
        check(settings, layers, (str(truth.layer), len(truth.names)), ranked)
    captured_layers = list(layers)
    if with_table and truth.layer not in layers:
        captured_layers.append(str(truth.layer))
    with study.timers.stage("images"):
        images = max(study.job.images, settings.panel_images)
        captured = features(replace(study.job, images=images), captured_layers)
    results = {"ours": study.method.describe(study.job_of_layers(*captured_layers)), **published}
    with study.timers.stage("study"):
        counts = {layer: units_of(q) for layer, q in captured.captured.activations.items()}
        units = choose(settings, layers, counts, results[settings.rank_by].descriptions)
        table = outputs.label_table(units, results)
    study.begin()
    outputs.save_panels(study, captured, table, results)
    labelled = {name: int((table[name] != "").sum()) for name in results}
    tables, metrics = {"qualitative": table}, {"units": len(table), "labelled": labelled}
    if with_table:
        tables["unit_table"], metrics["unit_table"] = outputs.unit_table(study, results)
        print(tables["unit_table"].to_string(index=False))
    digests = {name: result.run["digests"]["labels"] for name, result in published.items()}
    study.save(tables, {"qualitative": metrics}, facts_of(captured) | {"labels": digests})


def main() -> None:
    launch_study(run, "qualitative")


if __name__ == "__main__":
    main()
