"""Infer an image's class from the description of the unit behind its prediction (appendix A.6).

For every labelled image of the probe: the unit of study.layer with the largest contribution (weight
times activation) to the class that study.into predicts, and the class whose name is most similar to
the unit's description. Reports how often that class is the true one, and the predicted one.
method=published_clip_dissect method.path=FILE, for example, takes published labels. Writes
class_from_descriptions.csv (one row per image), metrics.json, class_from_descriptions.png and .pdf,
panels.png and .pdf and, last, run.json to <paths.results>/class_from_descriptions/<date>_<time>/.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clipdissect.app.launch import launch_study, results_folder

PARTS = ("target", "probe", "encoder", "concepts")


def run(config: Any) -> None:
    from clipdissect import similarity
    from clipdissect.app.build import build_group
    from clipdissect.app.studies import class_from_descriptions as outputs
    from clipdissect.app.studies.base import StudyRun
    from clipdissect.app.studies.weight_similarity import rows_of_layer
    from clipdissect.studies import class_from_descriptions as library
    from clipdissect.studies.features import features
    from clipdissect.studies.weight_similarity import feeding_layer, linear_weights

    study = StudyRun(config, results_folder(), parts=PARTS)
    names, settings = study.truth.names, study.settings
    with study.timers.stage("load"):
        job = replace(study.job, similarity=build_group(similarity.build, config.similarity))
        into = settings.into or str(study.truth.layer)
        layer = feeding_layer(job.target, into, settings.layer)
        weights = linear_weights(job.target.model, into)
        outputs.check(study, weights, into)
    with study.timers.stage("images"):
        captured = features(job, list(dict.fromkeys([layer, into])))
    described = study.method.describe(replace(job, target=replace(job.target, layers=(layer,))))
    with study.timers.stage("study"):
        rows = rows_of_layer(described.descriptions, weights, layer, into)
        labels = list(rows["description"])
        images = outputs.labelled_images(captured, weights, (layer, into), labels, names)
        vectors, reasons = study.embed(names, labels)
        nearest = {name: library.nearest_classes(v, labels, names) for name, v in vectors.items()}
        truth, predicted, units = images.truth, images.predicted, images.units
        agreements = {
            name: library.measured(units, classes, truth, predicted, settings, study.resampling)
            for name, classes in nearest.items()
        }
    metrics: dict[str, Any] = {
        "layer": layer,
        "into": into,
        "images": len(images.names),
        "accuracy": float((truth == predicted).mean()),
        "chance": 1 / len(names),
        "units_used": len(set(units.tolist())),
        **agreements,
        **{name: {"reason": reason} for name, reason in reasons.items()},
    }
    table = library.table(images.names, truth, predicted, units, labels, nearest, names)
    study.begin()
    outputs.print_metrics(metrics, agreements)
    outputs.draw(study, agreements, metrics["chance"])
    if settings.panels:
        outputs.save_panels(study, table, captured, layer)
    tables = {"class_from_descriptions": table, "descriptions": rows}
    facts = outputs.facts(study, captured, described)
    study.save(tables, {"class_from_descriptions": metrics}, facts)


def main() -> None:
    launch_study(run, "class_from_descriptions")


if __name__ == "__main__":
    main()
