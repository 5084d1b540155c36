"""Do units with similar descriptions have large weights between them? (Sec. 5, Fig. 6)

Compares the weights from study.layer into study.into, a linear layer whose units are classes, with
the cosines of the units' descriptions and the class names: Pearson's r over all pairs and over the
largest weights, Spearman's rho, the mean similarity of the k largest weights, and a permutation
control. method=published_clip_dissect method.path=FILE takes published labels; then only the
weights are needed. Writes weight_similarity.csv (means by k), largest_weights.csv,
descriptions.csv, metrics.json, weight_similarity.png and .pdf, panels of the largest weights with
both units' images if there are images, and, last, run.json to
<paths.results>/weight_similarity/<date>_<time>/.
"""

from __future__ import annotations

from typing import Any

from clipdissect.app.launch import launch_study, results_folder

LARGEST = 1000  # rows of largest_weights.csv


def run(config: Any) -> None:
    from clipdissect.app.studies import weight_similarity as outputs
    from clipdissect.app.studies.base import StudyRun
    from clipdissect.studies import weight_similarity as library

    study = StudyRun(config, results_folder())
    with study.timers.stage("load"):
        into = study.settings.into or str(study.truth.layer)
        layer = library.feeding_layer(study.job.target, into, study.settings.layer)
        table = library.linear_weights(study.job.target.model, into)
    captured = outputs.capture_layers(study.job, layer, into)
    study.job = study.job_of_layers(layer)
    result = study.method.describe(study.job)
    rows = outputs.rows_of_layer(result.descriptions, table, layer, into)
    with study.timers.stage("study"):
        labels = list(rows["description"])
        weights = library.Weights.of(table, labels, study.truth.names)
        vectors, reasons = study.embed(study.truth.names, labels)
        metrics = {
            name: library.measured(weights, v, study.settings, study.resampling)
            for name, v in vectors.items()
        }
    layers = {
        "layer": layer,
        "into": into,
        "inputs": table.shape[1],
        "outputs": table.shape[0],
        "described": len(weights.units),
        "linearity": outputs.linearity_of(captured, table, layer, into),
    }
    missing = {name: {"reason": reason} for name, reason in reasons.items()}
    study.begin()
    pairs = library.largest_pairs(weights, vectors, LARGEST)
    outputs.draw(study, weights, vectors, metrics)
    if captured and study.settings.panels:
        outputs.save_panels(study, pairs, captured, layer, into)
    outputs.print_metrics(layers, metrics)
    tables = {
        "weight_similarity": outputs.curves(metrics),
        "largest_weights": pairs,
        "descriptions": rows,
    }
    facts = {"target": study.job.target.facts, **result.run}
    study.save(tables, {"weight_similarity": layers | metrics | missing}, facts)


def main() -> None:
    launch_study(run, "weight_similarity")


if __name__ == "__main__":
    main()
